"""The blocks of the conditional U-Net: transformers over positions, and its three kinds of level.

Feature maps are (B, C, h, w), tokens (B, h*w, C), the time embedding (B, T) already through SiLU. `context` holds the
keys and values of every cross-attention in the order they run (see `unet.PreparedContext`); each takes its own by
`index`. Attribute names are those of diffusers, since they are the keys of its checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from .attention import attend, attention_weights
from .blocks import Downsample, ResnetBlock, Upsample

KeyValue = tuple[torch.Tensor, torch.Tensor]  # each (B or 1, L, C)
Context = Sequence[KeyValue]

_TRANSFORMER_EPS = 1e-6  # of the GroupNorm before a transformer; residual blocks take theirs from the config


@dataclass(frozen=True, kw_only=True)
class LevelShape:
    """What the blocks of one level share.

    Attributes:
        channels: of every feature map the level gives.
        time_channels: T, length of the time embedding.
        context_channels: D, width of the text context.
        heads, depth: of each transformer at this level.
        attends: whether a transformer follows each residual block.
        linear: whether transformers begin and end with a linear layer, not a 1×1 convolution.
        groups, eps: of the normalisation in residual blocks.
    """

    channels: int
    time_channels: int
    context_channels: int
    heads: int
    depth: int
    attends: bool
    linear: bool
    groups: int
    eps: float

    def resnet(self, in_channels: int) -> ResnetBlock:
        """A residual block from `in_channels` to this level's channels."""
        return ResnetBlock(
            in_channels, self.channels, groups=self.groups, eps=self.eps, time_channels=self.time_channels
        )


class Attention(nn.Module):
    """Attention from tokens to keys and values projected from tokens or context; no biases but the last."""

    def __init__(self, width: int, source_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(source_width, width, bias=False)
        self.to_v = nn.Linear(source_width, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])  # the key is `to_out.0`

    def keys_values(self, source: torch.Tensor) -> KeyValue:
        """source: (B, L, source_width). Returns key and value, each (B, L, width)."""
        return self.to_k(source), self.to_v(source)

    def forward(self, x: torch.Tensor, keys_values: KeyValue) -> torch.Tensor:
        """x: (B, N, width). Returns the same shape."""
        return self.to_out[0](attend(self.to_q(x), *keys_values, self.heads))

    def looks(self, x: torch.Tensor, keys_values: KeyValue) -> torch.Tensor:
        """Where a call looks: (B, heads, N, L) in float32, each row of which sums to 1."""
        return attention_weights(self.to_q(x), keys_values[0], self.heads)


class GEGLU(nn.Module):
    """Linear layer gated by the GELU of another (Shazeer 2020, GLU variants)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * F.gelu(gate)


class FeedForward(nn.Module):
    """GEGLU to four times the width and back; the keys are `net.0.proj` and `net.2`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([GEGLU(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net[2](self.net[0](x))


class TransformerLayer(nn.Module):
    """Self-attention, cross-attention to the context, feed-forward; each pre-normalised, around a shortcut."""

    def __init__(self, width: int, context_width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = Attention(width, context_width, heads)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)
        self.index = -1  # of this layer's pair in the context; the U-Net numbers its layers as they run

    def forward(self, x: torch.Tensor, context: Context) -> torch.Tensor:
        h = self.norm1(x)
        x = x + self.attn1(h, self.attn1.keys_values(h))
        x = x + self.attn2(self.norm2(x), context[self.index])
        return x + self.ff(self.norm3(x))


class Transformer(nn.Module):
    """Transformer layers over the positions of a feature map, around a shortcut (Rombach 2022, appendix E.2.1)."""

    def __init__(self, shape: LevelShape) -> None:
        super().__init__()
        width = shape.channels
        self.linear = shape.linear
        self.norm = nn.GroupNorm(shape.groups, width, eps=_TRANSFORMER_EPS)
        self.proj_in: nn.Module = nn.Linear(width, width) if shape.linear else nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList(
            TransformerLayer(width, shape.context_channels, shape.heads) for _ in range(shape.depth)
        )
        self.proj_out: nn.Module = nn.Linear(width, width) if shape.linear else nn.Conv2d(width, width, 1)

    def forward(self, x: torch.Tensor, context: Context) -> torch.Tensor:
        h = self.norm(x)
        tokens = _tokens(h) if self.linear else _tokens(self.proj_in(h))
        if self.linear:
            tokens = self.proj_in(tokens)
        for layer in self.transformer_blocks:
            tokens = layer(tokens, context)
        if self.linear:
            return x + _feature_map(self.proj_out(tokens), like=x)
        return x + self.proj_out(_feature_map(tokens, like=x))


class DownBlock(nn.Module):
    """One level on the way down: residual blocks, a transformer after each if the level attends, then half the size."""

    def __init__(self, shape: LevelShape, in_channels: int, layers: int, *, last: bool) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(Transformer(shape) for _ in range(layers if shape.attends else 0))
        self.resnets = nn.ModuleList(shape.resnet(in_channels if i == 0 else shape.channels) for i in range(layers))
        self.downsamplers = nn.ModuleList([] if last else [Downsample(shape.channels, symmetric=True)])

    def forward(self, x: torch.Tensor, time: torch.Tensor, context: Context) -> list[torch.Tensor]:
        """Returns every feature map on the way; the last of them goes on."""
        maps: list[torch.Tensor] = []
        for i, resnet in enumerate(self.resnets):
            x = resnet(x, time)
            if self.attentions:
                x = self.attentions[i](x, context)
            maps.append(x)
        return maps + [downsample(x) for downsample in self.downsamplers]


class MidBlock(nn.Module):
    """Residual block, transformer, residual block at the coarsest level."""

    def __init__(self, shape: LevelShape) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([Transformer(shape)])
        self.resnets = nn.ModuleList(shape.resnet(shape.channels) for _ in range(2))

    def forward(self, x: torch.Tensor, time: torch.Tensor, context: Context) -> torch.Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x, time), context), time)


class UpBlock(nn.Module):
    """One level on the way up: each residual block also takes a feature map kept on the way down; then twice the size.

    Args:
        shape: of this level.
        in_channels: of the feature map that comes from below.
        skip_channels: of the feature maps kept on the way down, in the order they are used.
        last: whether this is the finest level, which stays at its size.
    """

    def __init__(self, shape: LevelShape, in_channels: int, skip_channels: Sequence[int], *, last: bool) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(Transformer(shape) for _ in (skip_channels if shape.attends else ()))
        self.resnets = nn.ModuleList(
            shape.resnet((in_channels if i == 0 else shape.channels) + skip) for i, skip in enumerate(skip_channels)
        )
        self.upsamplers = nn.ModuleList([] if last else [Upsample(shape.channels)])

    def forward(self, x: torch.Tensor, time: torch.Tensor, context: Context, skips: list[torch.Tensor]) -> torch.Tensor:
        """Takes its feature maps off the end of `skips`."""
        for i, resnet in enumerate(self.resnets):
            x = resnet(torch.cat([x, skips.pop()], dim=1), time)
            if self.attentions:
                x = self.attentions[i](x, context)
        for upsample in self.upsamplers:
            height, width = skips[-1].shape[2:]  # not simply twice the size when the way down met an odd one
            x = upsample(x, (height, width))
        return x


def _tokens(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 1).flatten(1, 2)  # (B, h*w, C), a view when x is channels_last


def _feature_map(tokens: torch.Tensor, *, like: torch.Tensor) -> torch.Tensor:
    return tokens.unflatten(1, like.shape[2:]).permute(0, 3, 1, 2)  # (B, C, h, w), channels_last
