"""Trained layers under the names that kohya's scripts give them, joined where those train several as one.

    Stable Diffusion 1, 2   lora_unet_<diffusers' name>, lora_te_<transformers' name>
    XL                      lora_unet_<name in the original code>, lora_te1_…, lora_te2_…
    FLUX                    lora_unet_<name in the authors' code>, lora_te1_…, lora_te3_… (T5)

FLUX's authors hold query, key and value in one matrix (in single blocks also the feed-forward layer's way in). Adapters
of its parts become one of the sum of their ranks: the downs one above the other, the ups along the diagonal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from wordbrush.formats.lora.keys import flat
from wordbrush.formats.lora.trained import TrainedLayer, TrainedLora
from wordbrush.formats.single_file.keymap import SAME, STACKED, SWAPPED, KeyMap, Link
from wordbrush.formats.single_file.names_flux import flux_names
from wordbrush.formats.single_file.names_unet import unet_names
from wordbrush.networks.flux import FluxTransformer
from wordbrush.networks.t5 import T5Encoder
from wordbrush.networks.unet import UNet


def kohya_layers(
    trained: TrainedLora, networks: Mapping[str, nn.Module], base: str | None
) -> Iterator[tuple[str, TrainedLayer]]:
    """Every layer of a kohya file by its name in the file; alpha is then always divided by the rank.

    Args:
        trained: what was learnt.
        networks: the networks it was learnt on, whose weights count only where DoRA meets a matrix of which a part
            was not trained.
        base: the family of the model, a key of `summary.BASES`.
    """
    for name, layers in trained.items():
        network = networks[name]
        names: Iterator[tuple[str, TrainedLayer]]
        if isinstance(network, FluxTransformer):
            names = _originals(layers, network, KeyMap(flux_names(network.config), _shapes(network)))
        elif isinstance(network, UNet) and _of_xl(network):
            names = _originals(layers, network, KeyMap(unet_names(network.config), _shapes(network)))
        else:
            names = iter(layers.items())
        prefix = _prefix(name, networks, base)
        for layer, learnt in names:
            yield f"{prefix}_{flat(layer)}", _divided(learnt)


def _prefix(name: str, networks: Mapping[str, nn.Module], base: str | None) -> str:
    if name in ("unet", "transformer"):
        return "lora_unet"
    if name == "text_encoder_2":
        return "lora_te3" if isinstance(networks[name], T5Encoder) else "lora_te2"
    unet = networks.get("unet")
    several = "transformer" in networks or "text_encoder_2" in networks or base in ("sdxl", "flux")
    return "lora_te1" if several or (isinstance(unet, UNet) and _of_xl(unet)) else "lora_te"


def _of_xl(unet: UNet) -> bool:
    return unet.config.addition_embed_type is not None


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _originals(
    layers: Mapping[str, TrainedLayer], network: nn.Module, names: KeyMap
) -> Iterator[tuple[str, TrainedLayer]]:
    """Layers by their names in original files, in the order of those."""
    for link in names.links.values():
        own = [tensor.removesuffix(".weight") for tensor in link.own if tensor.endswith(".weight")]
        if not any(name in layers for name in own):
            continue
        layer = link.original.removesuffix(".weight")
        if link.form == STACKED:
            yield layer, _stacked(link, layers, network)
        elif link.form == SWAPPED:
            yield layer, _swapped(layers[own[0]])
        else:
            assert link.form == SAME, link
            yield layer, layers[own[0]]


def _stacked(link: Link, layers: Mapping[str, TrainedLayer], network: nn.Module) -> TrainedLayer:
    """One layer of several whose rows lie one below the other. Parts that were not trained do not change."""
    names = [tensor.removesuffix(".weight") for tensor in link.own]
    weights = {name: network.get_parameter(f"{name}.weight") for name in names}
    parts = [layers[name] for name in names if name in layers]
    scales = {part.scale for part in parts}
    scale = scales.pop() if len(scales) == 1 else 1.0
    rank = sum(part.rank for part in parts)
    up = torch.zeros(sum(len(weight) for weight in weights.values()), rank, dtype=parts[0].up.dtype)
    row = column = 0
    for name, weight in weights.items():
        if name in layers:
            part = layers[name]
            block = part.up if part.scale == scale else part.up * part.scale
            up[row : row + len(weight), column : column + part.rank] = block
            column += part.rank
        row += len(weight)
    magnitudes = [_magnitude(layers.get(name), weight) for name, weight in weights.items()]
    learnt = any(part.magnitude is not None for part in parts)
    return TrainedLayer(
        down=torch.cat([part.down for part in parts]).cpu(),
        up=up,
        alpha=scale * rank,
        magnitude=torch.cat(magnitudes) if learnt else None,
    )


def _magnitude(part: TrainedLayer | None, weight: Tensor) -> Tensor:
    if part is not None and part.magnitude is not None:
        return part.magnitude.cpu()
    return torch.linalg.vector_norm(weight.detach().float(), dim=1).cpu()


def _swapped(layer: TrainedLayer) -> TrainedLayer:
    """The same with the second half of its rows first."""
    half = len(layer.up) // 2
    magnitude = None if layer.magnitude is None else layer.magnitude.roll(half, 0)
    return replace(layer, up=layer.up.roll(half, 0), magnitude=magnitude)


def _divided(layer: TrainedLayer) -> TrainedLayer:
    """The same with an alpha that the rank divides, since kohya's files cannot say anything else."""
    return replace(layer, alpha=layer.scale * layer.rank, rooted=False)
