"""The parts of a pipeline folder that are networks: their classes, configs and weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wordbrush.errors import ModelFileError, WordbrushError
from wordbrush.formats.json_file import read_json
from wordbrush.formats.weight_files import has_variant
from wordbrush.formats.weights import build, find_weights, read_weights
from wordbrush.networks.clip import CLIPTextConfig, CLIPTextModel
from wordbrush.networks.tiny_vae import Autoencoder, TinyAutoencoder, TinyAutoencoderConfig
from wordbrush.networks.unet import UNet, UNetConfig
from wordbrush.networks.vae import AutoencoderKL, AutoencoderKLConfig
from wordbrush.runtime.policy import Runtime

_DIFFUSERS, _TRANSFORMERS = "diffusion_pytorch_model", "model"


@dataclass(frozen=True, kw_only=True)
class NetworkClass:
    """A class that model_index.json may name for a part.

    Attributes:
        library: whose class it is: diffusers or transformers.
        stem: the file name of its weights without ending.
        make: config.json, parsed -> the network.
    """

    library: str
    stem: str
    make: Callable[[dict[str, Any]], nn.Module]


def _flux(config: dict[str, Any]) -> nn.Module:
    from wordbrush.networks.flux import FluxConfig, FluxTransformer

    return FluxTransformer(FluxConfig.from_dict(config))


def _t5(config: dict[str, Any]) -> nn.Module:
    from wordbrush.networks.t5 import T5Config, T5Encoder

    return T5Encoder(T5Config.from_dict(config))


def _vae(config: dict[str, Any]) -> Autoencoder:
    """The autoencoder of whichever class its config names: a separate VAE may be of either."""
    if config.get("_class_name") == "AutoencoderTiny":
        return TinyAutoencoder(TinyAutoencoderConfig.from_dict(config))
    return AutoencoderKL(AutoencoderKLConfig.from_dict(config))


def _clip(config: dict[str, Any], *, projection: bool = False) -> nn.Module:
    return CLIPTextModel(CLIPTextConfig.from_dict(config), projection=projection)


CLASSES: dict[str, NetworkClass] = {
    "UNet2DConditionModel": NetworkClass(
        library="diffusers", stem=_DIFFUSERS, make=lambda config: UNet(UNetConfig.from_dict(config))
    ),
    "FluxTransformer2DModel": NetworkClass(library="diffusers", stem=_DIFFUSERS, make=_flux),
    "AutoencoderKL": NetworkClass(library="diffusers", stem=_DIFFUSERS, make=_vae),
    "AutoencoderTiny": NetworkClass(library="diffusers", stem=_DIFFUSERS, make=_vae),
    "CLIPTextModel": NetworkClass(library="transformers", stem=_TRANSFORMERS, make=_clip),
    "CLIPTextModelWithProjection": NetworkClass(
        library="transformers", stem=_TRANSFORMERS, make=lambda config: _clip(config, projection=True)
    ),
    "T5EncoderModel": NetworkClass(library="transformers", stem=_TRANSFORMERS, make=_t5),
}

# part -> the classes it may be
NETWORKS: dict[str, tuple[str, ...]] = {
    "unet": ("UNet2DConditionModel",),
    "transformer": ("FluxTransformer2DModel",),
    "vae": ("AutoencoderKL", "AutoencoderTiny"),
    "text_encoder": ("CLIPTextModel",),
    "text_encoder_2": ("CLIPTextModelWithProjection", "T5EncoderModel"),
}

# What old files call the VAE's attention layers -> today's names.
_VAE_RENAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

# Buffers that old transformers stored and that follow from the config.
_TEXT_IGNORED = frozenset({"text_model.embeddings.position_ids"})


def read_network(
    place: Path, kind: str, variant: str | None = None, runtime: Runtime | None = None
) -> nn.Module:
    """The network in a part's folder.

    Args:
        kind: one of `CLASSES`.
        variant: as in `weight_files`.
        runtime: where it will run, as in `fill`; None leaves its weights in the number format of the files.

    Raises:
        ModelFileError: its config.json or weights are missing, damaged, or do not belong together.
    """
    config = read_json(place / "config.json")
    tensors = stored_tensors(place, kind, variant)
    try:
        return build(lambda: CLASSES[kind].make(config), tensors, place, runtime)
    except WordbrushError:
        raise
    except ValueError as error:
        raise ModelFileError(f"{place / 'config.json'}: {error}") from error
    except (TypeError, AttributeError, RuntimeError) as error:  # a value of the wrong kind, or one that makes no layer
        raise ModelFileError(
            f"{place / 'config.json'} is not the config of a {kind}: {error}; copy the file again"
        ) from error


def weight_files(place: Path, kind: str, variant: str | None = None) -> list[Path]:
    """The files in a part's folder that hold its weights: of that variant, or the plain ones where it has none such.

    Published models have a variant of some parts only, and `models pull` fetches them so.
    """
    stem = CLASSES[kind].stem
    return find_weights(place, stem, variant if variant is not None and has_variant(place, stem, variant) else None)


def check_variant(folder: Path, networks: Mapping[str, str], variant: str | None) -> None:
    """Raises `ModelFileError` when no part of a folder, given as part -> class, has weights of that variant."""
    stems = {part: CLASSES[kind].stem for part, kind in networks.items()}
    if variant is None or any(has_variant(folder / part, stem, variant) for part, stem in stems.items()):
        return
    raise ModelFileError(
        f"no part of {folder} has weights of the variant {variant!r}; leave the variant out, or copy its files too"
    )


def stored_tensors(place: Path, kind: str, variant: str | None = None) -> dict[str, torch.Tensor]:
    """The tensors in a part's folder under the names that our networks use, whichever year's library wrote them."""
    tensors = read_weights(weight_files(place, kind, variant))
    if kind.startswith("CLIPText"):
        # transformers 5 leaves out the prefix that all files before it have
        named = {key if key.startswith("text_") else f"text_model.{key}": value for key, value in tensors.items()}
        return {key: value for key, value in named.items() if key not in _TEXT_IGNORED}
    if kind == "AutoencoderKL":
        return dict(_renamed_attention(key, value) for key, value in tensors.items())
    return tensors


def _renamed_attention(key: str, tensor: torch.Tensor) -> tuple[str, torch.Tensor]:
    """Today's name and shape of a VAE attention weight that an old file calls `...attentions.0.query.weight`."""
    head, _, old = key.rpartition(".")[0].rpartition(".")
    if ".attentions." not in key or old not in _VAE_RENAMES:
        return key, tensor
    # older still: a 1x1 convolution in place of the linear layer
    return f"{head}.{_VAE_RENAMES[old]}.{key.rpartition('.')[2]}", tensor[:, :, 0, 0] if tensor.ndim == 4 else tensor


def config_of(network: nn.Module) -> dict[str, Any]:
    """The config.json of a network of ours."""
    if isinstance(network, CLIPTextModel):
        return network.to_dict()
    content: dict[str, Any] = network.config.to_dict()  # type: ignore[operator, union-attr]
    return content


def class_of(network: nn.Module) -> str:
    """Which of `CLASSES` a network of ours is."""
    if isinstance(network, CLIPTextModel):
        return "CLIPTextModel" if network.text_projection is None else "CLIPTextModelWithProjection"
    names = {
        "UNet": "UNet2DConditionModel",
        "AutoencoderKL": "AutoencoderKL",
        "TinyAutoencoder": "AutoencoderTiny",
        "FluxTransformer": "FluxTransformer2DModel",
        "T5Encoder": "T5EncoderModel",
    }
    return names[type(network).__name__]
