"""SRVGGNetCompact: Real-ESRGAN's small network, a stack of convolutions at the small picture's size (Wang 2021).

realesr-general-x4v3 and realesr-animevideov3 are such. Parameter names are those of these files: `body.{}`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from .config import require


@dataclass(frozen=True, kw_only=True)
class SRVGGConfig:
    """Shape of an SRVGGNetCompact; the defaults are those of realesr-animevideov3.

    Attributes:
        features: channels of the feature maps.
        convolutions: between the first and the last.
        scale: how many times larger the result is.
    """

    features: int = 64
    convolutions: int = 16
    scale: int = 4

    def __post_init__(self) -> None:
        for name in ("features", "convolutions", "scale"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)} must be at least 1")

    @property
    def reach(self) -> int:
        """How many pixels of the small picture away from a place decide what the large one shows there."""
        return self.convolutions + 2


class SRVGG(nn.Module):
    """Pictures (B, 3, h, w) in [0, 1] to pictures `scale` times as large, about [0, 1] but not clipped."""

    adds_picture = True

    def __init__(self, config: SRVGGConfig) -> None:
        super().__init__()
        self.config = config
        width = config.features
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.PReLU(width)]
        for _ in range(config.convolutions):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.PReLU(width)]
        self.body = nn.ModuleList([*layers, nn.Conv2d(width, 3 * config.scale**2, 3, padding=1)])

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, 3, h, w) in [0, 1]. Returns (B, 3, scale*h, scale*w) float32: each pixel, and what it lacks."""
        x = images.to(next(self.parameters()).dtype)
        for layer in self.body:
            x = layer(x)
        scale = self.config.scale
        return F.pixel_shuffle(x, scale).float() + F.interpolate(images.float(), scale_factor=float(scale))
