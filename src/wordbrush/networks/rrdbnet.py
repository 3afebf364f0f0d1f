"""RRDBNet: the generator of ESRGAN (Wang 2018, §3.1 and figure 4) and of Real-ESRGAN (Wang 2021, §3.2).

Dense blocks inside residual blocks inside a residual block, without normalisation; then nearest-neighbour enlargement,
each followed by a convolution. Parameter names are those of Real-ESRGAN's files.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import require

_RESIDUAL = 0.2  # residual scaling, "beta" of Wang 2018, §3.1
_SLOPE = 0.2  # of the leaky ReLU
_CONVOLUTIONS = 5  # of a dense block


@dataclass(frozen=True, kw_only=True)
class RRDBNetConfig:
    """Shape of an RRDBNet; the defaults are those of the published ×4 networks.

    Attributes:
        features: channels of the feature maps.
        growth: channels that each convolution of a dense block adds.
        blocks: residual-in-residual dense blocks.
        doublings: enlargements by two.
        unshuffle: pixels along each side that are folded into channels first: 2 and 4 in Real-ESRGAN's ×2 and ×1.
    """

    features: int = 64
    growth: int = 32
    blocks: int = 23
    doublings: int = 2
    unshuffle: int = 1

    def __post_init__(self) -> None:
        for name in ("features", "growth", "blocks"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)} must be at least 1")
        require(0 <= self.doublings <= 3, f"doublings={self.doublings} must be 0 to 3")
        require(self.unshuffle in (1, 2, 4), f"unshuffle={self.unshuffle} is not 1, 2 or 4")
        require(
            2**self.doublings >= self.unshuffle,
            f"doublings={self.doublings} with unshuffle={self.unshuffle} would make pictures smaller",
        )

    @property
    def scale(self) -> int:
        """How many times larger the result is."""
        return 2**self.doublings // self.unshuffle

    @property
    def reach(self) -> int:
        """How many pixels of the small picture away from a place can have a say in what the large one shows there."""
        return (3 * _CONVOLUTIONS * self.blocks + 2) * self.unshuffle + 4


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees all that came before it (Huang 2017), around a shortcut."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        for number in range(1, _CONVOLUTIONS + 1):
            out = growth if number < _CONVOLUTIONS else features
            conv = nn.Conv2d(features + (number - 1) * growth, out, 3, padding=1)
            self.add_module(f"conv{number}", conv)

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        for number in range(1, _CONVOLUTIONS):
            found = F.leaky_relu(self.get_submodule(f"conv{number}")(seen), _SLOPE)
            seen = torch.cat([seen, found], dim=1)  # (B, F + number * G, h, w)
        return x + _RESIDUAL * self.get_submodule(f"conv{_CONVOLUTIONS}")(seen)


class RRDB(nn.Module):
    """Three dense blocks around a shortcut."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = DenseBlock(features, growth)
        self.rdb2 = DenseBlock(features, growth)
        self.rdb3 = DenseBlock(features, growth)

    def forward(self, x: Tensor) -> Tensor:
        return x + _RESIDUAL * self.rdb3(self.rdb2(self.rdb1(x)))


class RRDBNet(nn.Module):
    """Pictures (B, 3, h, w) in [0, 1] to pictures `scale` times as large, about [0, 1] but not clipped."""

    adds_picture = False

    def __init__(self, config: RRDBNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.features
        self.conv_first = nn.Conv2d(3 * config.unshuffle**2, width, 3, padding=1)
        self.body = nn.ModuleList(RRDB(width, config.growth) for _ in range(config.blocks))
        self.conv_body = nn.Conv2d(width, width, 3, padding=1)
        for number in range(1, config.doublings + 1):
            self.add_module(f"conv_up{number}", nn.Conv2d(width, width, 3, padding=1))
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, 3, h, w) in [0, 1], any h and w. Returns (B, 3, scale*h, scale*w) float32."""
        height, width = images.shape[2:]
        fold = self.config.unshuffle
        x = images.to(self.conv_first.weight.dtype)
        if fold > 1:
            x = F.pad(x, (0, -width % fold, 0, -height % fold), mode="replicate")
            x = F.pixel_unshuffle(x, fold)
        x = first = self.conv_first(x)
        for block in self.body:
            x = block(x)
        x = first + self.conv_body(x)
        for number in range(1, self.config.doublings + 1):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = F.leaky_relu(self.get_submodule(f"conv_up{number}")(x), _SLOPE)
        x = self.conv_last(F.leaky_relu(self.conv_hr(x), _SLOPE))
        return x[:, :, : height * self.config.scale, : width * self.config.scale].float()
