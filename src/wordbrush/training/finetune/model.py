"""Opening a model for training, and the sentences for those that cannot be trained here."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from wordbrush.errors import RequestError
from wordbrush.formats.open import open_model
from wordbrush.formats.parts import ModelParts
from wordbrush.networks.tiny_vae import TinyAutoencoder
from wordbrush.networks.vae import AutoencoderKL

FAMILIES = ("sd1", "sd2", "sdxl", "flux-dev", "flux-schnell")
"""The families of models that are fine-tuned here."""

_FROZEN = {"bfloat16": torch.bfloat16, "float16": torch.float16}

# Bytes of weights from which on a frozen text encoder is kept in half precision (T5 of FLUX, in float32, has 19 GB).
_LARGE = 2 << 30


def open_for_training(name: str | None, *, prediction: str | None = None) -> ModelParts:
    """The model of a name, as `wordbrush.load` takes it, its networks frozen and in evaluation mode.

    Raises:
        ModelFileError: there is no such model, or it is damaged.
        RequestError: it is one that cannot be trained here.
    """
    parts = open_model(name, prediction=prediction)
    check_trainable(parts)
    for network in parts.networks.values():
        network.eval().requires_grad_(False)
    return parts


def not_trained(name: str, family: str) -> str:
    """Why a model of another family cannot be fine-tuned here, and what can be done."""
    if family == "sdxl-refiner":
        return f"{name!r} is the refiner of Stable Diffusion XL; fine-tune the base model"
    return (
        f"{name!r} is not a model that is fine-tuned here, which are Stable Diffusion 1, 2 and XL and FLUX.1, all of "
        "which read captions; train it on with the recipe that it was made by"
    )


def check_trainable(parts: ModelParts) -> None:
    """Raises RequestError for inpainting, editing, distilled and refining models, and for tiny autoencoders."""
    unet = parts.unet
    if parts.family not in FAMILIES or parts.vae is None:
        raise RequestError(not_trained(parts.name, parts.family))
    if unet is not None and unet.config.in_channels != parts.vae.config.latent_channels:
        edits = parts.picture_input == "edit"
        kind = "an editing model, which sees a picture" if edits else "an inpainting model, which sees picture and mask"
        raise RequestError(
            f"{parts.name!r} is {kind} beside the noise ({unet.config.in_channels} input channels), and pictures with "
            "captions alone cannot train that; fine-tune the model it was made from"
        )
    if parts.transformer is not None and parts.picture_input is not None:
        raise RequestError(
            f"{parts.name!r} is an inpainting model, and pictures with captions alone cannot train that; "
            "fine-tune the model it was made from"
        )
    if unet is not None and unet.config.time_cond_proj_dim is not None:
        raise RequestError(
            f"{parts.name!r} was distilled to paint in a few steps (LCM), which ordinary training would undo; "
            "fine-tune the model it was made from, and use the result with an LCM LoRA"
        )
    if isinstance(parts.vae, TinyAutoencoder):
        raise RequestError(
            f"the VAE of {parts.name!r} is a tiny autoencoder, whose latents are not exact enough to learn from; "
            "give the model its own VAE"
        )


def vae_of(parts: ModelParts) -> AutoencoderKL:
    """The autoencoder of a model that `check_trainable` let pass."""
    return cast(AutoencoderKL, parts.vae)


def side_step(factor: int, levels: int | None) -> int:
    """What both sides of pictures must be multiples of.

    factor: of the autoencoder. levels: of the U-Net, each but the first of half the size; None is FLUX, which takes
    latents in patches of two by two.
    """
    return factor * 2 ** (1 if levels is None else levels - 1)


def set_precision(parts: ModelParts, trained: set[str], precision: str) -> None:
    """Brings every network to the number format that it trains in.

    What is trained is float32, whatever it was stored in. A frozen network that denoises follows the recipe's
    precision; frozen text encoders and the autoencoder, which work once for each picture, are float32, but for those
    too large for that.
    """
    for name, network in parts.networks.items():
        dtype = torch.float32
        if name not in trained:
            large = sum(parameter.numel() for parameter in network.parameters()) * 4 >= _LARGE
            if network is parts.denoiser or (large and name != "vae"):
                dtype = _FROZEN.get(precision, dtype)
        _cast(network, dtype)


def _cast(network: nn.Module, dtype: torch.dtype) -> None:
    network.to(dtype=dtype)
    if not isinstance(network, nn.Embedding):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
