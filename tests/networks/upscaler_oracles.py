"""RRDBNet and SRVGGNetCompact a second time, from their papers and state dicts, as functions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def conv(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=1)


def leaky(x: Tensor) -> Tensor:
    return torch.maximum(x, 0.2 * x)


def rrdbnet(w: dict[str, Tensor], x: Tensor, *, blocks: int, doublings: int, unshuffle: int = 1) -> Tensor:
    """Wang 2018: x_{l+1} = x_l + 0.2 * (dense block of x_l), three of them, and 0.2 * that added again."""
    if unshuffle > 1:  # channel c*u*u + u*dy + dx is pixel (dy, dx) of each square
        batch, channels, height, width = x.shape
        parts = x.reshape(batch, channels, height // unshuffle, unshuffle, width // unshuffle, unshuffle)
        x = parts.permute(0, 1, 3, 5, 2, 4).reshape(batch, -1, height // unshuffle, width // unshuffle)
    first = x = conv(w, "conv_first", x)
    for block in range(blocks):
        outer = x
        for dense in ("rdb1", "rdb2", "rdb3"):
            name = f"body.{block}.{dense}."
            seen = [x]
            for number in range(1, 5):
                seen.append(leaky(conv(w, f"{name}conv{number}", torch.cat(seen, 1))))
            x = x + 0.2 * conv(w, f"{name}conv5", torch.cat(seen, 1))
        x = outer + 0.2 * x
    x = first + conv(w, "conv_body", x)
    for number in range(1, doublings + 1):
        x = leaky(conv(w, f"conv_up{number}", x.repeat_interleave(2, 2).repeat_interleave(2, 3)))
    return conv(w, "conv_last", leaky(conv(w, "conv_hr", x)))


def srvgg(w: dict[str, Tensor], x: Tensor, *, convolutions: int, scale: int) -> Tensor:
    y = x
    for number in range(convolutions + 1):
        y = conv(w, f"body.{2 * number}", y)
        y = torch.where(y > 0, y, y * w[f"body.{2 * number + 1}.weight"][:, None, None])
    y = conv(w, f"body.{2 * convolutions + 2}", y)
    batch, _, height, width = y.shape
    y = y.reshape(batch, 3, scale, scale, height, width).permute(0, 1, 4, 2, 5, 3)
    large = x.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    return y.reshape(batch, 3, scale * height, scale * width) + large


def random_state(network: torch.nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Weights for a network, small enough that nothing overflows and large enough that everything matters."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(value.shape, generator=generator) * (0.15 if value.ndim > 1 else 0.1)
        for name, value in network.state_dict().items()
    }
