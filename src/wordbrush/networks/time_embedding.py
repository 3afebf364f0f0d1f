"""Embedding the time: sinusoids, then two linear layers; the U-Net and FLUX share it.

Attribute names are those of diffusers, since they are the keys of its checkpoints.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from .blocks import silu


def sinusoids(positions: torch.Tensor, size: int) -> torch.Tensor:
    """Embeds numbers as cosines, then sines, of falling frequencies (Ho 2020, after Vaswani 2017, §3.5).

    positions: (N,). Returns (N, size) in float32; size must be even.
    """
    half = size // 2
    # In the reference's order: the angles are so large that another rounding of the exponents would show.
    exponents = -math.log(10_000.0) * torch.arange(half, dtype=torch.float32, device=positions.device) / half
    angles = positions.float()[:, None] * exponents.exp()
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TimestepEmbedding(nn.Module):
    """Two linear layers around SiLU, with an optional second input added before the first."""

    def __init__(self, in_channels: int, out_channels: int, condition_channels: int | None = None) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_channels, out_channels)
        self.cond_proj = None if condition_channels is None else nn.Linear(condition_channels, in_channels, bias=False)
        self.linear_2 = nn.Linear(out_channels, out_channels)

    def forward(self, x: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        x = x.to(self.linear_1.weight.dtype)
        if condition is not None and self.cond_proj is not None:
            x = x + self.cond_proj(condition.to(x.dtype))
        return self.linear_2(silu(self.linear_1(x)))
