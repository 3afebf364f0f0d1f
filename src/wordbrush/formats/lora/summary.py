"""What a LoRA is, told from the names and shapes of its tensors and its metadata alone, without torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from wordbrush.formats.lora.keys import flat, named_network, split_key

Shape = tuple[int, ...]

BASES = {
    "sd1": "Stable Diffusion 1",
    "sd2": "Stable Diffusion 2",
    "sdxl": "Stable Diffusion XL",
    "sdxl-refiner": "the Stable Diffusion XL refiner",
    "sd3": "Stable Diffusion 3",
    "flux": "FLUX.1",
}
"""The families of models that a LoRA can be made for, as people call them."""

# Width of the text that the cross-attention of a U-Net reads.
BASE_OF_TEXT_WIDTH = {768: "sd1", 1024: "sd2", 2048: "sdxl", 1280: "sdxl-refiner"}

_KINDS = {"down": "LoRA", "hada_w1_a": "LoHa", "lokr_w1": "LoKr", "lokr_w1_a": "LoKr", "diff": "full weights"}
_CROSS_ATTENTION = re.compile(r"attn2_to_[kv]$")
_FLUX = re.compile(r"(^|_)(single_transformer_blocks|double_blocks|single_blocks)_\d+_")
_SD3 = re.compile(r"(^|_)joint_blocks_\d+_|(^|_)transformer_blocks_\d+_attn_add_[qkv]_proj$")

# Beginnings of what trainers write as the base; the first that fits decides.
_SAID = (
    ("sdxl", "sdxl"), ("stable-diffusion-xl", "sdxl"), ("sd_v1", "sd1"), ("stable-diffusion-v1", "sd1"),
    ("sd_v2", "sd2"), ("stable-diffusion-v2", "sd2"), ("sd3", "sd3"), ("stable-diffusion-3", "sd3"), ("flux1", "flux"),
    ("flux-1", "flux"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LoraSummary:
    """What a LoRA file holds.

    Attributes:
        base: the family of models it was made for, a key of `BASES`; None when nothing tells.
        kinds: its rules, the most frequent first: "LoRA", "DoRA", "LoHa", "LoKr", "full weights".
        ranks: the ranks of its LoRA and LoHa layers, in rising order.
        networks: what it changes: "unet" (whichever network denoises), "text_encoder", "text_encoder_2".
        layers: how many layers it changes.
    """

    base: str | None
    kinds: tuple[str, ...]
    ranks: tuple[int, ...]
    networks: tuple[str, ...]
    layers: int


def summarise(shapes: Mapping[str, Shape], metadata: Mapping[str, str]) -> LoraSummary:
    """Sums up a file from the shapes of its tensors; a file that is no LoRA has no layers."""
    keys = {key: split for key in shapes if (split := split_key(key)) is not None}
    layers = {layer for layer, _ in keys.values()}
    dora = {layer for layer, part in keys.values() if part in ("dora_scale", "magnitude")}
    kinds = Counter(
        "DoRA" if layer in dora and part == "down" else _KINDS[part] for layer, part in keys.values() if part in _KINDS
    )
    ranks = {shapes[key][0] for key, (_, part) in keys.items() if part in ("down", "hada_w1_b") and shapes[key]}
    return LoraSummary(
        base=_base(shapes, keys, metadata),
        kinds=tuple(kind for kind, _ in kinds.most_common()),
        ranks=tuple(sorted(ranks)),
        networks=tuple(sorted({_network(layer) for layer in layers})),
        layers=len(layers),
    )


def _network(layer: str) -> str:
    named = named_network(layer)
    if named is not None:
        return named
    return "text_encoder" if "encoder_layers_" in flat(layer) else "unet"


def _base(shapes: Mapping[str, Shape], keys: Mapping[str, tuple[str, str]], metadata: Mapping[str, str]) -> str | None:
    return next(_from_shapes(shapes, keys), None) or _from_metadata(metadata) or _from_encoders(keys)


def _from_shapes(shapes: Mapping[str, Shape], keys: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    layers = {flat(layer) for layer, _ in keys.values()}
    if any(_FLUX.search(layer) for layer in layers):
        yield "flux"
    if any(_SD3.search(layer) for layer in layers):
        yield "sd3"
    for key, (layer, part) in keys.items():
        if part in ("down", "hada_w1_b", "diff") and len(shapes[key]) >= 2 and _CROSS_ATTENTION.search(flat(layer)):
            width = shapes[key][1]
            if width in BASE_OF_TEXT_WIDTH:
                yield BASE_OF_TEXT_WIDTH[width]


def _from_metadata(metadata: Mapping[str, str]) -> str | None:
    if metadata.get("ss_v2") == "True":
        return "sd2"
    for name in ("ss_base_model_version", "modelspec.architecture"):
        said = metadata.get(name, "").lower()
        for beginning, base in _SAID:
            if said.startswith(beginning):
                return base
    return None


def _from_encoders(keys: Mapping[str, tuple[str, str]]) -> str | None:
    """SDXL alone has a second CLIP; of the other families the encoders do not tell."""
    second = {flat(layer) for layer, _ in keys.values() if named_network(layer) == "text_encoder_2"}
    return "sdxl" if any("encoder_layers_" in layer for layer in second) else None
