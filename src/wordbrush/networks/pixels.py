"""No autoencoder: for models that denoise pixels, whose latents are the picture itself (Ho 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class PixelsConfig:
    """What the other autoencoders' configs say, of pixels."""

    latent_channels: int = 3
    downscale: int = 1
    scaling_factor: float = 1.0
    shift_factor: float | None = None


class Pixels(nn.Module):
    """The identity, where other models have an autoencoder. It has no weights and is in no file."""

    def __init__(self) -> None:
        super().__init__()
        self.config = PixelsConfig()

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """images: (B, 3, H, W) in [-1, 1]. Returns them."""
        return images

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """latents: (B, 3, H, W). Returns them, about [-1, 1] but not clipped."""
        return latents
