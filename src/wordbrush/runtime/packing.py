"""Layers whose weights lie in memory the way oneDNN's kernels read them, for inference on a CPU.

Plain layers rearrange their weights at every call, which for small feature maps costs as much as the product itself,
and may pick another kernel, with other rounding, when the batch has another size. Packed ones do neither: a row of the
batch has the same bits whatever lies beside it (`tests/runtime/test_packed.py`).

The layers here copy weights out of ordinary modules and leave those as they are; changed weights must be packed again.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wordbrush.networks.attention import PLAIN_MAX_KEYS, attend

# The hint that oneDNN's reordering asks for; the format it picks was the same for all sizes tried.
_TOKENS = 128
_SIDE = 16

# An upsampled row and the two beside it come from two rows of the small map. For rows 2i (first) and 2i + 1 (second):
# which of the kernel's three taps fall on the upper, and which on the lower of the two.
_TAPS = (((1.0, 0.0, 0.0), (0.0, 1.0, 1.0)), ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0)))


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this build of torch and this processor have the kernels."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


class PackedConv:
    """A convolution; `plus` adds a feature map of the output's shape inside the same kernel."""

    def __init__(self, conv: nn.Conv2d) -> None:
        assert isinstance(conv.padding, tuple)
        self.bias = conv.bias
        self.geometry = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        size = [2, conv.in_channels, _SIDE, _SIDE]
        plain = conv.weight.detach().contiguous().to_mkldnn()
        self.weight = torch._C._nn.mkldnn_reorder_conv2d_weight(plain, *self.geometry, size)  # type: ignore[call-arg]

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x: (B, C, H, W), channels last; bias: (C',), in place of the layer's own."""
        bias = self.bias if bias is None else bias
        return torch.ops.mkldnn._convolution_pointwise(x, self.weight, bias, *self.geometry, "none", [], "")

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """Returns conv(x) + other, rounded once."""
        run = torch.ops.mkldnn._convolution_pointwise.binary
        return run(x, other, self.weight, self.bias, *self.geometry, "add", None, None, [], None)


class PackedLinear:
    """x @ weightᵀ + bias; weight: (C', C) or a 1×1 convolution's (C', C, 1, 1)."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.bias = None if bias is None else bias.detach().contiguous()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().flatten(1).contiguous(), _TOKENS)

    def __call__(self, x: Tensor) -> Tensor:
        """x: (..., C)."""
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")

    def gelu(self, x: Tensor) -> Tensor:
        """The exact GELU of the layer's output, in the same kernel."""
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "gelu", [], "none")

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """Returns linear(x) + other, rounded once."""
        return torch.ops.mkldnn._linear_pointwise.binary(x, other, self.weight, self.bias, "add")


def packed_linear(layer: nn.Module) -> PackedLinear:
    """Packs a linear layer, or the linear layer that a 1×1 convolution is."""
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    return PackedLinear(layer.weight, layer.bias)


class FoldedUpsample:
    """Twice the size by nearest neighbour, then a 3×3 convolution, as one 2×2 convolution of the small feature map.

    Of the nine products at each large pixel several read the same small one. Their weights are added up beforehand,
    separately for the four pixels that a small one becomes, which leaves four products of the nine.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        channels = conv.out_channels
        taps = torch.tensor(_TAPS, dtype=torch.float64)  # (place, tap of 2, tap of 3)
        weight = torch.einsum("pak,qbl,oikl->pqoiab", taps, taps, conv.weight.detach().double())
        folded = nn.Conv2d(conv.in_channels, 4 * channels, 2, padding=1, bias=conv.bias is not None, device="meta")
        folded.weight = nn.Parameter(weight.flatten(0, 2).to(conv.weight.dtype))  # (4C', C, 2, 2)
        if conv.bias is not None:
            folded.bias = nn.Parameter(conv.bias.detach().repeat(4))
        self.conv = PackedConv(folded)
        self.channels = channels

    def __call__(self, x: Tensor) -> Tensor:
        """x: (B, C, h, w), channels last. Returns (B, C', 2h, 2w)."""
        height, width = x.shape[2:]
        four = self.conv(x).unflatten(1, (2, 2, self.channels))  # (B, 2, 2, C', h + 1, w + 1)
        shape = (len(x), self.channels, 2 * height, 2 * width)
        out = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
        for row in (0, 1):
            for column in (0, 1):
                out[:, :, row::2, column::2] = four[:, row, column, :, row : row + height, column : column + width]
        return out


class PackedAttention:
    """Multi-head attention with few copies: the arithmetic of `networks.attention.attend`.

    With few keys, each step is one kernel over all heads and rows, and the scale costs nothing.
    """

    def __init__(self, heads: int) -> None:
        self.heads = heads

    def within(self, qkv: Tensor) -> Tensor:
        """Self-attention. qkv: (B, L, 3 * C), queries, keys and values side by side. Returns (B, L, C)."""
        rows, length, _ = qkv.shape
        if length > PLAIN_MAX_KEYS:
            query, key, value = qkv.chunk(3, dim=2)
            return attend(query, key, value, self.heads)
        parts = qkv.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (3, B, heads, L, d)
        q, k, v = parts.reshape(3, rows * self.heads, length, -1).unbind()
        return self._joined(_softmax_product(q, k.transpose(1, 2), v), rows)

    def keys_values(self, keys_values: Tensor) -> tuple[Tensor, Tensor]:
        """Lays out the keys and values (B, S, 2 * C) of `across`: keys (B, heads, d, S), values (B, heads, S, d)."""
        key, value = keys_values.unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, S, d) each
        return key.transpose(2, 3).contiguous(), value.contiguous()

    def across(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention to what `keys_values` laid out, of B rows, or of one that serves all. query: (B, L, C)."""
        rows = len(query)
        q = query.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, heads, L, d)
        if key.shape[3] > PLAIN_MAX_KEYS:
            out = F.scaled_dot_product_attention(q, key.transpose(2, 3), value)
            return out.transpose(1, 2).flatten(2)
        if len(key) < rows:
            key, value = key.expand(rows, -1, -1, -1), value.expand(rows, -1, -1, -1)
        return self._joined(_softmax_product(*(part.flatten(0, 1) for part in (q, key, value))), rows)

    def _joined(self, heads: Tensor, rows: int) -> Tensor:
        return heads.unflatten(0, (rows, self.heads)).transpose(1, 2).flatten(2)  # (B, L, C)


def _softmax_product(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q: (N, L, d), k: (N, d, S), v: (N, S, d). Returns softmax(q k / √d) v, (N, L, d)."""
    start = q.new_empty((1, 1, 1))  # not read: beta = 0
    scores = torch.baddbmm(start, q, k, beta=0, alpha=q.shape[2] ** -0.5)
    return torch.bmm(F.softmax(scores, dim=-1), v)
