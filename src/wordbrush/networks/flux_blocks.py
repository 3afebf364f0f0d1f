"""The blocks of FLUX: tokens of text and picture attend together, shifted, scaled and gated by time and text.

Tokens are (B, L, D), the condition (B or 1, D) already through SiLU, rotations (L, d/2) per half: cosines and sines.
Attribute names are those of diffusers, since they are the keys of its checkpoints.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .attention import attend, attention_weights

_EPS = 1e-6  # of every norm in this network
_THETA = 10_000.0
_FLOAT16_MAX = 65504.0

Rotation = tuple[torch.Tensor, torch.Tensor]


def rotations(positions: torch.Tensor, axes: tuple[int, ...]) -> Rotation:
    """Cosines and sines that turn pairs of numbers by a token's positions (Su 2021, RoPE), one axis after another.

    Args:
        positions: (L, len(axes)), whole or not.
        axes: how many numbers of a head belong to each axis.

    Returns:
        Two tensors (L, sum(axes) / 2) in float32; angles are computed in float64 where the device has it.
    """
    dtype = torch.float32 if positions.device.type == "mps" else torch.float64
    angles = []
    for axis, size in enumerate(axes):
        exponents = torch.arange(0, size, 2, dtype=dtype, device=positions.device) / size
        angles.append(positions[:, axis, None].to(dtype) / _THETA**exponents)
    joined = torch.cat(angles, dim=1)
    return joined.cos().float(), joined.sin().float()


def rotate(x: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """Turns neighbouring pairs of every head of x: (B, L, heads, d), in float32; returns x's shape and type."""
    cos, sin = (part[:, None] for part in rotation)  # (L, 1, d/2)
    even, odd = x.float().unflatten(3, (-1, 2)).unbind(4)  # (B, L, heads, d/2)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=4).flatten(3).to(x.dtype)


class Modulation(nn.Module):
    """A linear layer that makes shifts, scales and gates out of the condition (Peebles 2023, adaLN-Zero)."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(width, parts * width)

    def forward(self, condition: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns as many tensors (B or 1, 1, D) as there are parts."""
        return self.linear(condition)[:, None].chunk(self.parts, dim=2)


def modulated(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Normalises every token to mean 0 and variance 1, then scales and shifts it."""
    return F.layer_norm(x, x.shape[-1:], eps=_EPS) * (1 + scale) + shift


class Attention(nn.Module):
    """Projections of a stream to queries, keys (both normalised per head) and values, and the attention itself."""

    def __init__(self, heads: int, head_dim: int) -> None:
        super().__init__()
        width = heads * head_dim
        self.heads = heads
        self.norm_q = nn.RMSNorm(head_dim, eps=_EPS)
        self.norm_k = nn.RMSNorm(head_dim, eps=_EPS)
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)

    def project(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x: (B, L, D). Returns query, key and value, each (B, L, heads, d)."""
        query, key, value = (layer(x).unflatten(2, (self.heads, -1)) for layer in (self.to_q, self.to_k, self.to_v))
        return self.norm_q(query), self.norm_k(key), value

    def mix(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rotation: Rotation) -> torch.Tensor:
        """Attention at the tokens' positions; each (B, L, heads, d). Returns (B, L, D)."""
        query, key = rotate(query, rotation), rotate(key, rotation)
        return attend(query.flatten(2), key.flatten(2), value.flatten(2), self.heads)


    def _looks(self, query: torch.Tensor, key: torch.Tensor, rotation: Rotation, length: int) -> torch.Tensor:
        """How much each picture token looks at each of the first `length` tokens, which are the text's.

        query, key: (B, L + N, heads, d), as for `mix`. Returns (B, N, L), the mean over heads, in float32; what a row
        lacks of 1 goes to the picture itself.
        """
        query, key = rotate(query, rotation)[:, length:], rotate(key, rotation)
        mean = query.new_zeros(len(query), query.shape[1], length, dtype=torch.float32)
        for head in range(self.heads):  # one by one: all at once would take more memory than the network
            mean += attention_weights(query[:, :, head], key[:, :, head], 1)[:, 0, :, :length] / self.heads
        return mean


class SelfAttention(Attention):
    """Attention over one stream, without a layer after it."""

    def forward(self, x: torch.Tensor, rotation: Rotation) -> torch.Tensor:
        """x: (B, L, D). Returns the same shape."""
        return self.mix(*self.project(x), rotation)

    def looks(self, x: torch.Tensor, rotation: Rotation, length: int) -> torch.Tensor:
        """Where a call looks whose first `length` tokens are text: (B, N, L), see `_looks`."""
        query, key, _ = self.project(x)
        return self._looks(query, key, rotation, length)


class JointAttention(Attention):
    """Attention over the tokens of text and picture together, each with projections of its own."""

    def __init__(self, heads: int, head_dim: int) -> None:
        super().__init__(heads, head_dim)
        width = heads * head_dim
        self.to_out = nn.ModuleList([nn.Linear(width, width)])  # the key is `to_out.0`
        self.norm_added_q = nn.RMSNorm(head_dim, eps=_EPS)
        self.norm_added_k = nn.RMSNorm(head_dim, eps=_EPS)
        self.add_q_proj = nn.Linear(width, width)
        self.add_k_proj = nn.Linear(width, width)
        self.add_v_proj = nn.Linear(width, width)
        self.to_add_out = nn.Linear(width, width)

    def project_text(self, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As `project`, with the text's layers."""
        layers = (self.add_q_proj, self.add_k_proj, self.add_v_proj)
        query, key, value = (layer(text).unflatten(2, (self.heads, -1)) for layer in layers)
        return self.norm_added_q(query), self.norm_added_k(key), value

    def forward(self, x: torch.Tensor, text: torch.Tensor, rotation: Rotation) -> tuple[torch.Tensor, torch.Tensor]:
        """x: (B, N, D); text: (B, L, D); rotation: of the text, then the picture. Returns both, same shapes."""
        pairs = zip(self.project_text(text), self.project(x), strict=True)
        query, key, value = (torch.cat(pair, dim=1) for pair in pairs)  # (B, L + N, heads, d)
        out = self.mix(query, key, value, rotation)
        length = text.shape[1]
        return self.to_out[0](out[:, length:]), self.to_add_out(out[:, :length])

    def looks(self, x: torch.Tensor, text: torch.Tensor, rotation: Rotation) -> torch.Tensor:
        """Where a call looks: (B, N, L), see `_looks`."""
        pairs = zip(self.project_text(text)[:2], self.project(x)[:2], strict=True)
        query, key = (torch.cat(pair, dim=1) for pair in pairs)
        return self._looks(query, key, rotation, text.shape[1])


class TanhGELU(nn.Module):
    """Linear layer, then the tanh approximation of GELU."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    """To four times the width and back; the keys are `net.0.proj` and `net.2`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([TanhGELU(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net[2](self.net[0](x))


class DoubleBlock(nn.Module):
    """Picture and text attend together and are otherwise apart (Esser 2024, MMDiT)."""

    def __init__(self, heads: int, head_dim: int) -> None:
        super().__init__()
        width = heads * head_dim
        self.norm1 = Modulation(width, 6)
        self.norm1_context = Modulation(width, 6)
        self.attn = JointAttention(heads, head_dim)
        self.ff = FeedForward(width)
        self.ff_context = FeedForward(width)

    def forward(
        self, x: torch.Tensor, text: torch.Tensor, condition: torch.Tensor, rotation: Rotation
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x: (B, N, D); text: (B, L, D). Returns both, same shapes."""
        shift, scale, gate, *x_rest = self.norm1(condition)
        text_shift, text_scale, text_gate, *text_rest = self.norm1_context(condition)
        mixed, text_mixed = self.attn(modulated(x, shift, scale), modulated(text, text_shift, text_scale), rotation)
        x, text = x + gate * mixed, text + text_gate * text_mixed
        shift, scale, gate = x_rest
        text_shift, text_scale, text_gate = text_rest
        x = x + gate * self.ff(modulated(x, shift, scale))
        text = text + text_gate * self.ff_context(modulated(text, text_shift, text_scale))
        return x, finite(text)


class SingleBlock(nn.Module):
    """Text and picture as one sequence; attention and feed-forward side by side (Dehghani 2023, §2.2)."""

    def __init__(self, heads: int, head_dim: int) -> None:
        super().__init__()
        width = heads * head_dim
        self.norm = Modulation(width, 3)
        self.proj_mlp = nn.Linear(width, 4 * width)
        self.proj_out = nn.Linear(5 * width, width)
        self.attn = SelfAttention(heads, head_dim)

    def forward(self, x: torch.Tensor, condition: torch.Tensor, rotation: Rotation) -> torch.Tensor:
        """x: (B, L + N, D), the text first. Returns the same shape."""
        shift, scale, gate = self.norm(condition)
        h = modulated(x, shift, scale)
        mixed = torch.cat([self.attn(h, rotation), F.gelu(self.proj_mlp(h), approximate="tanh")], dim=2)
        return finite(x + gate * self.proj_out(mixed))


def finite(x: torch.Tensor) -> torch.Tensor:
    """Brings float16 tokens that overflowed back to the largest number; other types have room."""
    return x.clamp(-_FLOAT16_MAX, _FLOAT16_MAX) if x.dtype == torch.float16 else x
