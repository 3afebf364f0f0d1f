"""Blocks that the VAE and the U-Net share, and drawing weights for training from scratch.

Attribute names are those of diffusers, since they are the keys of its checkpoints. Feature maps are (B, C, H, W); every
block keeps the channels_last layout of its input.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def silu(x: torch.Tensor) -> torch.Tensor:
    """Returns x · sigmoid(x) of a temporary x, overwriting it when no gradient is recorded (less memory traffic)."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


class ResnetBlock(nn.Module):
    """Two normalised 3×3 convolutions around a shortcut (He 2016), shifted by a time embedding if given (Ho 2020)."""

    def __init__(
        self, in_channels: int, out_channels: int, *, groups: int, eps: float, time_channels: int | None = None
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = None if time_channels is None else nn.Linear(time_channels, out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = None if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: torch.Tensor, time: torch.Tensor | None = None) -> torch.Tensor:
        """x: (B, C, H, W); time: (B or 1, T) embedding, already through SiLU. Returns (B, C', H, W)."""
        h = self.conv1(silu(self.norm1(x)))  # (B, C', H, W)
        if self.time_emb_proj is not None:
            h = h + self.time_emb_proj(time)[:, :, None, None]
        h = self.conv2(silu(self.norm2(h)))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Downsample(nn.Module):
    """Halves height and width with a strided 3×3 convolution.

    The U-Net pads all four sides by one; the VAE only right and bottom (`symmetric=False`), as it was first trained.
    """

    def __init__(self, channels: int, *, symmetric: bool) -> None:
        super().__init__()
        self.symmetric = symmetric
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1 if symmetric else 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x if self.symmetric else F.pad(x, (0, 1, 0, 1)))  # (B, C, H/2, W/2)


class Upsample(nn.Module):
    """Doubles height and width (or goes to a given size) by nearest neighbour, then a 3×3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor, size: tuple[int, int] | None = None) -> torch.Tensor:
        if size is None:
            size = (2 * x.shape[2], 2 * x.shape[3])
        return self.conv(F.interpolate(x, size=size, mode="nearest"))  # (B, C, *size)


@torch.no_grad()
def draw_parameters(network: nn.Module, generator: torch.Generator) -> None:
    """Re-draws every convolution, linear, embedding and normalisation layer from `generator`, in module order.

    Weights are uniform in ±1/√fan_in (what LDM was trained from), biases zero, normalisation the identity, embeddings
    of classes unit normal (what ADM was trained from, Dhariwal & Nichol 2021). The last convolution of every residual
    block is zero, so that the block starts as its shortcut (Goyal 2017, §5.1; Ho 2020).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = module.weight[0].numel() ** -0.5
            module.weight.uniform_(-bound, bound, generator=generator)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.Embedding):
            module.weight.normal_(generator=generator)
        elif isinstance(module, nn.GroupNorm | nn.LayerNorm):
            module.weight.fill_(1.0)
            module.bias.zero_()
    for module in network.modules():
        if isinstance(module, ResnetBlock):
            zero(module.conv2)


@torch.no_grad()
def zero(layer: nn.Module) -> None:
    """Sets all parameters of a layer to zero."""
    for parameter in layer.parameters():
        parameter.zero_()
