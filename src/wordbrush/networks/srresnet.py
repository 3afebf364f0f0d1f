"""SRResNet: small pictures to large ones by residual blocks and sub-pixel convolution (Ledig 2017, §2.1 and figure 4).

The generator of SRGAN without its adversary. As published it has batch normalisation; without it the network is the
body of EDSR (Lim 2017, §3.1), whose authors found it in the way. `skip_picture` is ours: the network then draws what
bicubic interpolation lacks (a global residual, Kim 2016, §3.1) and need not learn to copy colours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import Dialect, read_fields, require

_SLOPE = 0.25  # of PReLU below zero at first (He 2015, §2.1)
_CLASS = "SRResNet"


@dataclass(frozen=True, kw_only=True)
class SRResNetConfig:
    """Shape of an SRResNet; the defaults are the published network for ×4.

    Attributes:
        scale: how many times larger the result is: 2 or 4, by one sub-pixel convolution of 2 each.
        channels: of every feature map.
        blocks: residual blocks.
        end_kernel: side of the first and the last convolution's kernel.
        batch_norm: whether there is batch normalisation, in every residual block and after the last of them.
        skip_picture: whether the bicubic enlargement is added to what the network gives.
    """

    scale: int = 4
    channels: int = 64
    blocks: int = 16
    end_kernel: int = 9
    batch_norm: bool = True
    skip_picture: bool = False

    def __post_init__(self) -> None:
        require(self.scale in (2, 4), f"scale={self.scale} is not 2 or 4")
        for name in ("channels", "blocks"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)} must be at least 1")
        require(
            self.end_kernel % 2 == 1 and self.end_kernel >= 1, f"end_kernel={self.end_kernel} must be odd, from 1 up"
        )

    @property
    def reach(self) -> int:
        """How many pixels of the small picture away from a place decide what the large one shows there."""
        doublings = self.scale.bit_length() - 1
        last = -(-(self.end_kernel // 2) // self.scale)
        return self.end_kernel // 2 + 2 * self.blocks + 1 + doublings + last

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SRResNetConfig:
        """Reads a config.json. Raises ValueError for a setting that is unknown or wrong."""
        return cls(**read_fields(cls, values, Dialect(ignored=frozenset({"architectures"}), fixed={})))

    def to_dict(self) -> dict[str, Any]:
        """Returns a config.json."""
        return {"architectures": [_CLASS]} | asdict(self)


class SRResBlock(nn.Module):
    """Two 3×3 convolutions around a shortcut, PReLU between them and nothing after the sum (Gross and Wilber 2016)."""

    def __init__(self, channels: int, *, batch_norm: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=not batch_norm)
        self.norm1 = nn.BatchNorm2d(channels) if batch_norm else nn.Identity()
        self.act = nn.PReLU(channels, init=_SLOPE)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=not batch_norm)
        self.norm2 = nn.BatchNorm2d(channels) if batch_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm2(self.conv2(self.act(self.norm1(self.conv1(x)))))  # (B, C, h, w)


class SubPixel(nn.Module):
    """Twice the size: four times the channels, shuffled into 2×2 pixels each (Shi 2016, eq. 4), then PReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * channels, 3, padding=1)
        self.act = nn.PReLU(channels, init=_SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(F.pixel_shuffle(self.conv(x), 2))  # (B, C, 2h, 2w)


class SRResNet(nn.Module):
    """Pictures (B, 3, h, w) in [-1, 1] to pictures `scale` times as large, about [-1, 1] but not clipped."""

    @property
    def adds_picture(self) -> bool:
        """Whether what the network gives is small beside the picture it is added to."""
        return self.config.skip_picture

    def __init__(self, config: SRResNetConfig) -> None:
        super().__init__()
        self.config = config
        width, kernel = config.channels, config.end_kernel
        self.conv_in = nn.Conv2d(3, width, kernel, padding=kernel // 2)
        self.act_in = nn.PReLU(width, init=_SLOPE)
        self.blocks = nn.ModuleList(SRResBlock(width, batch_norm=config.batch_norm) for _ in range(config.blocks))
        self.conv_mid = nn.Conv2d(width, width, 3, padding=1, bias=not config.batch_norm)
        self.norm_mid = nn.BatchNorm2d(width) if config.batch_norm else nn.Identity()
        self.upsamplers = nn.ModuleList(SubPixel(width) for _ in range(config.scale.bit_length() - 1))
        self.conv_out = nn.Conv2d(width, 3, kernel, padding=kernel // 2)

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, 3, h, w) in [-1, 1]. Returns (B, 3, scale*h, scale*w) float32."""
        first = self.act_in(self.conv_in(images.to(self.conv_in.weight.dtype)))  # (B, C, h, w)
        x = first
        for block in self.blocks:
            x = block(x)
        x = first + self.norm_mid(self.conv_mid(x))  # the long skip
        for upsampler in self.upsamplers:
            x = upsampler(x)
        x = self.conv_out(x).float()
        if self.config.skip_picture:
            x = x + F.interpolate(images.float(), scale_factor=float(self.config.scale), mode="bicubic")
        return x

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Re-draws every parameter: He 2015 for PReLU, and residual branches at zero.

        With `skip_picture` the last convolution is zero as well, so that training starts from bicubic.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                std = (2.0 / ((1.0 + _SLOPE**2) * module.weight[0].numel())) ** 0.5  # He 2015, eq. 15
                module.weight.normal_(std=std, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.PReLU):
                module.weight.fill_(_SLOPE)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
                module.reset_running_stats()
        for block in self.blocks:
            assert isinstance(block, SRResBlock)
            second = block.norm2 if isinstance(block.norm2, nn.BatchNorm2d) else block.conv2
            second.weight.zero_()
        if self.config.skip_picture:
            self.conv_out.weight.zero_()
