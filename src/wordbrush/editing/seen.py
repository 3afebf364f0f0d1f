"""What a network sees of the picture it changes: channels that are joined to the noisy latents'."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Encode = Callable[[Tensor], Tensor]
"""(1, 3, H, W) in [-1, 1] -> latents (1, C, h, w)."""


def edit_channels(image: Tensor, encode: Encode) -> Tensor:
    """For instruct-pix2pix (Brooks 2023): the picture's latents, (1, C, h, w).

    encode: without scaling the latents, as these networks were trained.
    """
    return encode(image)


def inpaint_channels(image: Tensor, mask: Tensor, encode: Encode) -> Tensor:
    """For inpainting U-Nets: the mask, then the latents of what it leaves of the picture, (1, 1 + C, h, w).

    Args:
        image: (1, 3, H, W) in [-1, 1].
        mask: (1, 1, H, W), 1 where the picture may change, 0 where it is kept. What may change is seen as mid grey.
    """
    latents = encode(image * (mask < 0.5))
    return torch.cat([F.interpolate(mask, size=latents.shape[2:]).to(latents), latents], dim=1)


def fill_channels(image: Tensor, mask: Tensor, encode: Encode) -> Tensor:
    """For FLUX.1 Fill: the latents of what the mask leaves of the picture, then the mask, a channel for each pixel.

    Args:
        image, mask: as for `inpaint_channels`.

    Returns (1, C + f * f, h, w), f being how many pixels lie along a latent.
    """
    latents = encode(image * (1.0 - mask))
    return torch.cat([latents, F.pixel_unshuffle(mask, mask.shape[2] // latents.shape[2]).to(latents)], dim=1)


def changing(mask: Tensor) -> Tensor:
    """A mask (1, 1, H, W) in [0, 1] as these networks want it: 1 from one half on, else 0."""
    return (mask >= 0.5).float()
