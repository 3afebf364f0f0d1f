"""Large pictures through a tiny autoencoder: strips of rows that overlap as far as a convolution can see.

It has no normalisation over the picture and no attention, so a strip with that border gives the rows inside the border
as the whole picture would, up to the rounding of sums in another order.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from wordbrush.networks.tiny_vae import TinyAutoencoder

STRIP_LATENTS = 1 << 14
"""Latents in a strip, its borders not counted: 64 channels of their 64 pixels each are a quarter of a gigabyte."""


class TinyStrips:
    """A tiny autoencoder that works in strips; without copies of its weights."""

    def __init__(self, vae: TinyAutoencoder) -> None:
        self._vae = vae

    def encode(self, images: Tensor) -> Tensor:
        """As `TinyAutoencoder.encode`: (B, 3, H, W) to (B, C, H/f, W/f)."""
        factor = self._vae.config.downscale
        return self._in_strips(self._vae.encode, images, images.shape[3] // factor, given=factor, made=1)

    def decode(self, latents: Tensor) -> Tensor:
        """As `TinyAutoencoder.decode`: (B, C, h, w) to (B, 3, h*f, w*f)."""
        factor = self._vae.config.downscale
        return self._in_strips(self._vae.decode, latents, latents.shape[3], given=1, made=factor)

    def _in_strips(
        self, work: Callable[[Tensor], Tensor], x: Tensor, width: int, *, given: int, made: int
    ) -> Tensor:
        """`work` on strips; `given` and `made` are how many rows of its input and output a row of latents is."""
        border, height = self._vae.config.reach, x.shape[2] // given
        rows = max(1, STRIP_LATENTS // width)
        pieces = []
        for start in range(0, height, rows):
            stop = min(start + rows, height)
            first, last = max(start - border, 0), min(stop + border, height)
            strip = work(x[:, :, first * given : last * given])
            pieces.append(strip[:, :, (start - first) * made : (stop - first) * made])
        return torch.cat(pieces, dim=2)
