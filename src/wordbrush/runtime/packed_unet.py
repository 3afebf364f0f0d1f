"""The U-Net rearranged for inference on a CPU: the arithmetic of `networks.unet` in fewer and faster steps.

What differs from the plain network, all of it exact but for rounding:

    weights     packed once (see `packing`); query, key and value projected by one product
    text        its keys and values computed once per prompt, in bfloat16 with the weights on both sides of them
    time        embedded once for all rows and runs; what it adds to a residual block goes in as a convolution's bias
    guidance    rows of one picture that differ in their text alone are computed once up to the first cross-attention
    sums        shortcuts are added inside the kernel before them; the gate's GELU as well
    upsampling  folded into the convolution after it
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import zip_longest
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wordbrush.networks.blocks import Downsample, ResnetBlock, Upsample
from wordbrush.networks.unet import PreparedContext, UNet, UNetConfig, sinusoids
from wordbrush.networks.unet_blocks import GEGLU, DownBlock, KeyValue, MidBlock, Transformer, TransformerLayer, UpBlock
from wordbrush.runtime.packing import (
    FoldedUpsample,
    PackedConv,
    PackedCrossAttention,
    PackedLayerNorm,
    PackedLinear,
    PackedNorm,
    PackedSelfAttention,
    can_be_packed,
    packed_linear,
)

# Timesteps whose embeddings are kept: more than any model is trained on, so that every run finds those of the last one.
_KEPT_TIMES = 1024


PlainWeight = tuple[nn.Module, Callable[[], Tensor]]
"""A layer, and what makes its weight again."""


class PackedResnet:
    """A residual block; what the time adds comes as the first convolution's bias."""

    def __init__(self, block: ResnetBlock) -> None:
        self.norm1, self.norm2 = PackedNorm(block.norm1), PackedNorm(block.norm2)
        self.conv1, self.conv2 = PackedConv(block.conv1), PackedConv(block.conv2)
        self._shortcut = None if block.conv_shortcut is None else packed_linear(block.conv_shortcut)

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x: (B, C, H, W); bias: (C',), the first convolution's plus the time's part. Returns (B, C', H, W)."""
        h = self.norm2.silu(self.conv1(self.norm1.silu(x), bias))
        return self.conv2.plus(h, self.shortcut(x))

    def plain_weights(self, block: ResnetBlock) -> Iterator[PlainWeight]:
        """Those that were packed, of the block they came from."""
        yield block.conv1, self.conv1.plain
        yield block.conv2, self.conv2.plain
        if self._shortcut is not None and block.conv_shortcut is not None:
            yield block.conv_shortcut, self._shortcut.plain

    def shortcut(self, x: Tensor) -> Tensor:
        """What goes around the convolutions: (B, C, H, W) to (B, C', H, W)."""
        return x if self._shortcut is None else _feature_map(self._shortcut(_tokens(x)), like=x)


class PackedUpsample:
    """Folded where the size doubles, as it does unless a level on the way down had an odd side."""

    def __init__(self, block: Upsample) -> None:
        self.folded, self.conv = FoldedUpsample(block.conv), block.conv

    def __call__(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        if size == (2 * x.shape[2], 2 * x.shape[3]):
            return self.folded(x)
        return self.conv(F.interpolate(x, size=size, mode="nearest"))


class PackedTransformerLayer:
    """Self-attention, cross-attention, gated feed-forward."""

    def __init__(self, layer: TransformerLayer) -> None:
        gated, last = layer.ff.net[0], layer.ff.net[2]
        assert isinstance(gated, GEGLU)
        self.norm1, self.norm2, self.norm3 = (PackedLayerNorm(norm) for norm in (layer.norm1, layer.norm2, layer.norm3))
        self.own, self.cross = PackedSelfAttention(layer.attn1), PackedCrossAttention(layer.attn2)
        (value, gate), (value_bias, gate_bias) = gated.proj.weight.chunk(2), gated.proj.bias.chunk(2)
        self.value, self.gate = PackedLinear(value, value_bias), PackedLinear(gate, gate_bias)
        self.last = packed_linear(last)
        self.index = layer.index

    def __call__(self, x: Tensor, context: Sequence[KeyValue]) -> Tensor:
        """x: (B, N, width). Returns the same shape."""
        x = self.own(self.norm1(x), x)
        x = self.cross(self.norm2(x), x, context[self.index])
        h = self.norm3(x)
        return self.last.plus(self.value(h).mul_(self.gate.gelu(h)), x)

    def plain_weights(self, layer: TransformerLayer) -> Iterator[PlainWeight]:
        """Those that were packed and are not kept as they were too, of the layer they came from."""
        own, cross = layer.attn1, layer.attn2
        for index, projection in enumerate((own.to_q, own.to_k, own.to_v)):
            yield projection, partial(_part, self.own.qkv, 3, index)
        for index, projection in enumerate((cross.to_k, cross.to_v)):
            yield projection, partial(_part, self.cross.keys_values, 2, index)
        yield own.to_out[0], self.own.out.plain
        yield cast(GEGLU, layer.ff.net[0]).proj, lambda: torch.cat([self.value.plain(), self.gate.plain()])
        yield layer.ff.net[2], self.last.plain


class PackedTransformer:
    """Transformer layers over the positions of a feature map; a 1×1 convolution is a linear layer here."""

    def __init__(self, block: Transformer) -> None:
        self.norm = PackedNorm(block.norm)
        self.first, self.last = packed_linear(block.proj_in), packed_linear(block.proj_out)
        self.layers = [PackedTransformerLayer(cast(TransformerLayer, layer)) for layer in block.transformer_blocks]

    def __call__(self, x: Tensor, context: Sequence[KeyValue]) -> Tensor:
        """x: (B, C, h, w), channels last. Returns the same shape and layout."""
        tokens = self.first(_tokens(self.norm(x)))  # (B, h * w, C)
        for layer in self.layers:
            tokens = layer(tokens, context)
        return _feature_map(self.last.plus(tokens, _tokens(x)), like=x)

    def plain_weights(self, block: Transformer) -> Iterator[PlainWeight]:
        """Those that were packed, of the block they came from."""
        yield block.proj_in, self.first.plain
        yield block.proj_out, self.last.plain
        for packed, layer in zip(self.layers, block.transformer_blocks, strict=True):
            yield from packed.plain_weights(cast(TransformerLayer, layer))


class PackedStage:
    """A residual block and the transformer after it, if any."""

    def __init__(self, resnet: nn.Module, transformer: nn.Module | None) -> None:
        assert isinstance(resnet, ResnetBlock)
        self.resnet = PackedResnet(resnet)
        self.transformer = PackedTransformer(transformer) if isinstance(transformer, Transformer) else None

    def plain_weights(self, resnet: nn.Module, transformer: nn.Module | None) -> Iterator[PlainWeight]:
        """Those that were packed, of the blocks they came from."""
        assert isinstance(resnet, ResnetBlock)
        yield from self.resnet.plain_weights(resnet)
        if self.transformer is not None and isinstance(transformer, Transformer):
            yield from self.transformer.plain_weights(transformer)


class PackedUNet(nn.Module):
    """A U-Net for inference on a CPU; made from a plain one, of a config that `can_be_packed`.

    Args:
        unet: the plain one, whose weights are copied.
        take: whether each weight is taken from it as soon as it is packed, so that never much more than one copy of
            them all is in memory. It then has shapes without content, until `give_back`.
    """

    def __init__(self, unet: UNet, *, take: bool = False) -> None:
        super().__init__()
        assert can_be_packed(unet.config)
        self.config: UNetConfig = unet.config
        self._taken: list[PlainWeight] | None = [] if take else None
        with torch.no_grad():
            self._pack(unet)

    def give_back(self) -> None:
        """Gives the plain network, bit by bit, the weights that were taken from it; this one then is a copy."""
        for module, plain in self._taken or ():
            module.weight = nn.Parameter(plain().view(cast(Tensor, module.weight).shape), requires_grad=False)
        self._taken = None

    def _pack(self, unet: UNet) -> None:
        self.conv_in, self.conv_out = PackedConv(unet.conv_in), PackedConv(unet.conv_out)
        self.norm_out = PackedNorm(unet.conv_norm_out)
        self._pack_time(unet)
        down, middle, up = _blocks(unet)
        self.down = [(self._stages(block), _downsamplers(block)) for block in down]
        self.mid = self._stages(middle)
        self.up = [(self._stages(block), _upsamplers(block)) for block in up]
        stages = [*(s for part, _ in self.down for s in part), *self.mid, *(s for part, _ in self.up for s in part)]
        transformers = [stage.transformer for stage in stages if stage.transformer is not None]
        self.layers = sorted((layer for block in transformers for layer in block.layers), key=lambda layer: layer.index)

    def _stages(self, block: DownBlock | MidBlock | UpBlock) -> list[PackedStage]:
        stages = []
        for resnet, transformer in zip_longest(block.resnets, block.attentions):
            stages.append(PackedStage(resnet, transformer))
            if self._taken is not None:
                weights = list(stages[-1].plain_weights(resnet, transformer))
                for module, _ in weights:
                    empty = torch.empty_like(cast(Tensor, module.weight), device="meta")
                    module.weight = nn.Parameter(empty, requires_grad=False)
                self._taken += weights
        return stages

    def _pack_time(self, unet: UNet) -> None:
        down, middle, up = _blocks(unet)
        lists = [*(block.resnets for block in down), middle.resnets, *(block.resnets for block in up)]
        resnets = [cast(ResnetBlock, resnet) for part in lists for resnet in part]
        self.time_embedding = unet.time_embedding
        layers = [cast(nn.Linear, resnet.time_emb_proj) for resnet in resnets]
        self.time_weight = torch.cat([layer.weight for layer in layers])  # (sum of widths, T)
        # the convolution's own bias is part of what the time adds
        own = [cast(Tensor, resnet.conv1.bias) for resnet in resnets]
        self.time_bias = torch.cat([layer.bias + bias for layer, bias in zip(layers, own, strict=True)])
        self.time_split = [layer.out_features for layer in layers]
        self._times: dict[float, tuple[Tensor, ...]] = {}

    def prepare_context(self, context: Tensor) -> PreparedContext:
        """As `UNet.prepare_context`, but keys and values are laid out for `PackedCrossAttention`."""
        if context.ndim != 3 or context.shape[2] != self.config.cross_attention_dim:
            width = self.config.cross_attention_dim
            raise ValueError(f"context has shape {tuple(context.shape)}; this network takes (B, L, {width})")
        return PreparedContext(pairs=tuple(layer.cross.prepare(context) for layer in self.layers))

    def forward(self, x: Tensor, timestep: float, context: PreparedContext, *, copies: int = 1) -> Tensor:
        """Returns the prediction, (R, out_channels, h, w).

        Args:
            x: (B, in_channels, h, w), channels last.
            timestep: one for all rows.
            context: of R = copies * B rows, of which row i goes with row i % B of x; or of one that serves all.
            copies: how many texts each row of x is computed with.
        """
        rows = copies * len(x)
        biases = iter(self._time_biases(timestep))
        pairs = context.pairs
        x = self.conv_in(x)
        skips = [x]
        for stages, downsamplers in self.down:
            for stage in stages:
                x = _run(stage, x, next(biases), pairs, rows)
                skips.append(x)
            for downsample in downsamplers:
                x = downsample(x)
                skips.append(x)
        for stage in self.mid:
            x = _run(stage, x, next(biases), pairs, rows)
        for stages, upsamplers in self.up:
            for stage in stages:
                skip = _grown(skips.pop(), len(x))
                x = _run(stage, torch.cat([x, skip], dim=1), next(biases), pairs, rows)
            for upsample in upsamplers:
                height, width = skips[-1].shape[2:]
                x = upsample(x, (height, width))
        return self.conv_out(self.norm_out.silu(x))

    def _time_biases(self, timestep: float) -> tuple[Tensor, ...]:
        """What the time adds to each residual block's first convolution, (C',) each; kept for the next run.

        Timesteps are embedded one by one, so that the bits do not depend on which of them were kept.
        """
        found = self._times.get(timestep)
        if found is None:
            position = torch.tensor([timestep], dtype=torch.float32)
            embedded = F.silu(self.time_embedding(sinusoids(position, self.config.block_out_channels[0])))  # (1, T)
            row = F.linear(embedded, self.time_weight, self.time_bias)[0]  # (sum of widths,)
            found = tuple(part.clone() for part in row.split(self.time_split))
            if len(self._times) >= _KEPT_TIMES:
                self._times.clear()
            self._times[timestep] = found
        return found


def _run(stage: PackedStage, x: Tensor, bias: Tensor, pairs: Sequence[KeyValue], rows: int) -> Tensor:
    """One stage; at the first cross-attention x grows to the context's rows."""
    x = stage.resnet(x, bias)
    return x if stage.transformer is None else stage.transformer(_grown(x, rows), pairs)


def _grown(x: Tensor, rows: int) -> Tensor:
    return x if len(x) == rows else torch.cat([x] * (rows // len(x)))


def _blocks(unet: UNet) -> tuple[list[DownBlock], MidBlock, list[UpBlock]]:
    """The network's blocks in the order they run, with the types that a module list does not know."""
    down = [cast(DownBlock, block) for block in unet.down_blocks]
    return down, unet.mid_block, [cast(UpBlock, block) for block in unet.up_blocks]


def _part(layer: PackedLinear, parts: int, index: int) -> Tensor:
    """One of the weights that were joined to one before packing."""
    return layer.plain().chunk(parts)[index].clone()


def _downsamplers(block: DownBlock) -> list[PackedConv]:
    return [PackedConv(cast(Downsample, part).conv) for part in block.downsamplers]


def _upsamplers(block: UpBlock) -> list[PackedUpsample]:
    return [PackedUpsample(cast(Upsample, part)) for part in block.upsamplers]


def _tokens(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).flatten(1, 2)  # (B, h * w, C), a view of a channels-last map


def _feature_map(tokens: Tensor, *, like: Tensor) -> Tensor:
    rows, _, height, width = like.shape
    return tokens.view(rows, height, width, -1).permute(0, 3, 1, 2)  # (B, C, h, w), channels last
