"""Layers whose weights lie in memory the way oneDNN's kernels read them, for inference on a CPU.

Plain layers rearrange their weights at every call, which for small feature maps costs as much as the product itself,
and may pick another kernel, with other rounding, when the batch has another size. Packed ones do neither: a row of the
batch has the same bits whatever lies beside it (`tests/runtime/test_packed.py`).

The layers here copy weights out of ordinary modules and leave those as they are; changed weights must be packed again.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wordbrush.networks.attention import PLAIN_MAX_KEYS, attend
from wordbrush.networks.unet import UNetConfig
from wordbrush.networks.unet_blocks import Attention

_KERNELS = ("_convolution_pointwise", "_linear_pointwise", "_reorder_linear_weight", "_is_mkldnn_bf16_supported")

# The hint that oneDNN's reordering asks for; the format it picks was the same for all sizes tried.
_TOKENS = 128
_SIDE = 16

# Sums of products no longer than this were never cut into pieces by the kernels for AMX.
_LONGEST_SUM = 448

# An upsampled row and the two beside it come from two rows of the small map. For rows 2i (first) and 2i + 1 (second):
# which of the kernel's three taps fall on the upper, and which on the lower of the two.
_TAPS = (((1.0, 0.0, 0.0), (0.0, 1.0, 1.0)), ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0)))

Geometry = tuple[list[int], list[int], list[int], int]  # padding, stride, dilation, groups


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this build of torch and this processor have the kernels."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not all(hasattr(torch.ops.mkldnn, name) for name in _KERNELS):  # they are torch's own affair and may change
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


def can_be_packed(config: UNetConfig) -> bool:
    """Whether a U-Net of that config is one for `PackedUNet`: one without a second input to its time embedding.

    Those of Stable Diffusion XL and LCM, and those of classes, have one.
    """
    return config.addition_embed_type is None and config.time_cond_proj_dim is None and config.label_width is None


class PackedConv:
    """A convolution; `plus` adds a feature map of the output's shape inside the same kernel."""

    def __init__(self, conv: nn.Conv2d) -> None:
        assert isinstance(conv.padding, tuple)
        self.bias = conv.bias
        self.geometry: Geometry = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        self._of_strips: Geometry = ([0, conv.padding[1]], *self.geometry[1:])
        size = [2, conv.in_channels, _SIDE, _SIDE]
        plain = conv.weight.detach().contiguous().to_mkldnn()
        self.weight = torch._C._nn.mkldnn_reorder_conv2d_weight(plain, *self.geometry, size)  # type: ignore[call-arg]

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x: (B, C, H, W), channels last; bias: (C',), in place of the layer's own."""
        return self._run(x, self.bias if bias is None else bias, self.geometry)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """Returns conv(x) + other, rounded once."""
        return self._run_plus(x, other, self.geometry)

    def gelu(self, x: Tensor) -> Tensor:
        """The exact GELU of the layer's output, in the same kernel."""
        return torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *self.geometry, "gelu", [], "none")

    def strip(self, x: Tensor) -> Tensor:
        """As a call, but what lies above and below is part of x: no rows are padded."""
        return self._run(x, self.bias, self._of_strips)

    def strip_plus(self, x: Tensor, other: Tensor) -> Tensor:
        """As `plus`, but no rows are padded."""
        return self._run_plus(x, other, self._of_strips)

    def plain(self) -> Tensor:
        """The weight as it was before packing, bit by bit."""
        return self.weight.to_dense()

    def _run(self, x: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        return torch.ops.mkldnn._convolution_pointwise(x, self.weight, bias, *geometry, "none", [], "")

    def _run_plus(self, x: Tensor, other: Tensor, geometry: Geometry) -> Tensor:
        run = torch.ops.mkldnn._convolution_pointwise.binary
        return run(x, other, self.weight, self.bias, *geometry, "add", None, None, [], None)


class PackedLinear:
    """x @ weightᵀ + bias; weight: (C', C) or a 1×1 convolution's (C', C, 1, 1).

    oneDNN's linear kernels for AMX cut a long sum into pieces when there are few rows, so a row's bits would depend on
    the others. Its convolutions do not: there, long sums are 1×1 convolutions, a tenth to a third slower.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        weight = weight.detach().flatten(1)
        self.bias = None if bias is None else bias.detach().contiguous()
        self._wide: PackedConv | None = None
        if weight.shape[1] > _LONGEST_SUM and weight.dtype == torch.bfloat16 and _has_amx():
            conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=bias is not None, device="meta")
            conv.weight = nn.Parameter(weight[:, :, None, None], requires_grad=False)
            conv.bias = None if self.bias is None else nn.Parameter(self.bias, requires_grad=False)
            self._wide = PackedConv(conv)
        else:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _TOKENS)

    def __call__(self, x: Tensor) -> Tensor:
        """x: (..., C)."""
        if self._wide is not None:
            return _rows(self._wide(_column(x)), like=x)
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")

    def gelu(self, x: Tensor) -> Tensor:
        """The exact GELU of the layer's output, in the same kernel."""
        if self._wide is not None:
            return _rows(self._wide.gelu(_column(x)), like=x)
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "gelu", [], "none")

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """Returns linear(x) + other, rounded once."""
        if self._wide is not None:
            return _rows(self._wide.plus(_column(x), _column(other)), like=x)
        return torch.ops.mkldnn._linear_pointwise.binary(x, other, self.weight, self.bias, "add")

    def plain(self) -> Tensor:
        """The weight as it was before packing, bit by bit; of a 1×1 convolution, (C', C)."""
        return self.weight.to_dense() if self._wide is None else self._wide.plain().flatten(1)


def _has_amx() -> bool:
    """Whether oneDNN may use AMX; a torch that does not say is taken to."""
    asked = getattr(torch.cpu, "_is_amx_tile_supported", None)  # torch's own affair, which may change
    return True if asked is None else bool(asked())


def _column(x: Tensor) -> Tensor:
    """(..., C) as a feature map of one column, (1, C, rows, 1), channels last."""
    return x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)


def _rows(x: Tensor, *, like: Tensor) -> Tensor:
    """(1, C', rows, 1) as (..., C')."""
    return x.permute(0, 2, 3, 1).reshape(*like.shape[:-1], x.shape[1])


def packed_linear(layer: nn.Module) -> PackedLinear:
    """Packs a linear layer, or the linear layer that a 1×1 convolution is."""
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    return PackedLinear(layer.weight, layer.bias)


class PackedNorm:
    """Group normalisation of (B, C, H, W), without a module's overhead, which small feature maps feel."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        self.groups, self.weight, self.bias, self.eps = norm.num_groups, norm.weight, norm.bias, norm.eps

    def __call__(self, x: Tensor) -> Tensor:
        return torch.group_norm(x, self.groups, self.weight, self.bias, self.eps)

    def silu(self, x: Tensor) -> Tensor:
        """SiLU of the normalised map."""
        return F.silu(self(x), inplace=True)


class PackedLayerNorm:
    """Layer normalisation of (B, L, C)."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        self.shape, self.weight, self.bias, self.eps = norm.normalized_shape, norm.weight, norm.bias, norm.eps

    def __call__(self, x: Tensor) -> Tensor:
        return torch.layer_norm(x, self.shape, self.weight, self.bias, self.eps)


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


class PackedSelfAttention:
    """Self-attention around a shortcut, with few copies: the arithmetic of `networks.attention.attend`.

    With few tokens, each step is one kernel over all heads and rows, and the scale costs nothing.
    """

    def __init__(self, attention: Attention) -> None:
        self.heads = attention.heads
        self.qkv = PackedLinear(torch.cat([attention.to_q.weight, attention.to_k.weight, attention.to_v.weight]))
        self.out = packed_linear(attention.to_out[0])

    def __call__(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """x, shortcut: (B, L, C). Returns shortcut + attention(x)."""
        qkv = self.qkv(x)
        rows, length, width = x.shape
        if length > PLAIN_MAX_KEYS:
            query, key, value = qkv.chunk(3, dim=2)
            return self.out.plus(attend(query, key, value, self.heads), shortcut)
        parts = qkv.view(rows, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = parts.reshape(3, rows * self.heads, length, width // self.heads).unbind()
        return self.out.plus(_joined(_softmax_product(q, k.transpose(1, 2), v), self.heads), shortcut)


class PackedCrossAttention:
    """Attention to a text around a shortcut, with what depends on the text alone computed beforehand.

    Scores are x Wᵩ k and the result is w v Wₒ, for weights w that sum to 1. Where the keys of all heads together are no
    more than the width, Wᵩ k and v Wₒ are multiplied out once per text: each step then has two products for four.
    """

    def __init__(self, attention: Attention) -> None:
        self.heads = attention.heads
        last = cast(nn.Linear, attention.to_out[0])
        self.before, self.after, self.after_bias = attention.to_q.weight, last.weight, last.bias
        self.query = PackedLinear(attention.to_q.weight)
        self.keys_values = PackedLinear(torch.cat([attention.to_k.weight, attention.to_v.weight]))
        self.out = packed_linear(attention.to_out[0])

    def prepare(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a context (B, S, D), with or without the weights around them, for `__call__`."""
        parts = self.keys_values(context).unflatten(2, (2, self.heads, -1))
        key, value = parts.permute(2, 0, 3, 1, 4)  # (B, heads, S, d) each
        width = self.before.shape[1]
        # in float32 the products over all heads run slower than those they replace
        if self.heads * context.shape[1] > width or context.dtype == torch.float32:
            return key.transpose(2, 3).contiguous(), value.contiguous()
        size = width // self.heads
        before = self.before.float().view(self.heads, size, width).transpose(1, 2)  # (heads, C, d)
        scores = torch.matmul(before, key.float().transpose(2, 3)) * size**-0.5  # (B, heads, C, S)
        after = self.after.float().view(width, self.heads, size).permute(1, 2, 0)  # (heads, d, C)
        result = torch.matmul(value.float(), after) + self.after_bias.float() / self.heads  # (B, heads, S, C)
        return (
            scores.transpose(1, 2).flatten(2).to(context.dtype).contiguous(),  # (B, C, heads * S)
            result.flatten(1, 2).to(context.dtype).contiguous(),  # (B, heads * S, C)
        )

    def looks(self, x: Tensor, prepared: tuple[Tensor, Tensor]) -> Tensor:
        """Where a call looks: (B, heads, L, S) in float32, each row of which sums to 1; arguments as there."""
        first = prepared[0].expand(len(x), *prepared[0].shape[1:])
        rows, length, width = x.shape
        if first.ndim == 3:
            scores = torch.bmm(x, first).view(rows, length, self.heads, -1).transpose(1, 2)
        else:
            q = self.query(x).view(rows, length, self.heads, width // self.heads).transpose(1, 2)
            scores = q.float() @ first.float() * q.shape[3] ** -0.5
        return torch.softmax(scores.float(), dim=3)

    def __call__(self, x: Tensor, shortcut: Tensor, prepared: tuple[Tensor, Tensor]) -> Tensor:
        """x, shortcut: (B, L, C); prepared: of B rows, or of one that serves all. Returns shortcut + attention(x)."""
        first, second = (part.expand(len(x), *part.shape[1:]) for part in prepared)
        rows, length, width = x.shape
        if first.ndim == 3:
            scores = torch.bmm(x, first).view(rows, length, self.heads, -1)
            return torch.baddbmm(shortcut, torch.softmax(scores, dim=3).view(rows, length, -1), second)
        q = self.query(x).view(rows, length, self.heads, width // self.heads).transpose(1, 2)  # (B, heads, L, d)
        if first.shape[3] > PLAIN_MAX_KEYS:
            out = F.scaled_dot_product_attention(q, first.transpose(2, 3), second)
            return self.out.plus(out.transpose(1, 2).flatten(2), shortcut)
        out = _softmax_product(q.flatten(0, 1), first.flatten(0, 1), second.flatten(0, 1))
        return self.out.plus(_joined(out, self.heads), shortcut)


def _softmax_product(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q: (N, L, d), k: (N, d, S), v: (N, S, d). Returns softmax(q k / √d) v, (N, L, d)."""
    start = q.new_empty((1, 1, 1))  # not read: beta = 0
    scores = torch.baddbmm(start, q, k, beta=0, alpha=q.shape[2] ** -0.5)
    return torch.bmm(torch.softmax(scores, dim=2), v)


def _joined(x: Tensor, heads: int) -> Tensor:
    """x: (B * heads, L, d). Returns (B, L, heads * d)."""
    count, length, size = x.shape
    return x.view(count // heads, heads, length, size).transpose(1, 2).reshape(count // heads, length, heads * size)
