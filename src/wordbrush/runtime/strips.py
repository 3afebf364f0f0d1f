"""The VAE in strips: large pictures in little memory, and without seams.

A tile of a picture, decoded alone, differs from the same place of the whole: group normalisation takes its mean and
variance from all of the picture. So it is not the picture that is cut here but every layer's work. A layer goes through
its feature map from top to bottom, a strip of rows at a time with the row above and below, and gathers the moments of
what it gives; the next layer begins when all of it is there. That is the arithmetic of the whole network, in an order
that never holds more than two maps of a kind, in place of about six.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wordbrush.networks.blocks import Downsample, ResnetBlock, Upsample, silu
from wordbrush.networks.vae import AutoencoderKL, DiagonalGaussian, Level
from wordbrush.runtime.packed_unet import PackedResnet
from wordbrush.runtime.packed_vae import PackedDecoder, Part
from wordbrush.runtime.packing import FoldedUpsample, PackedNorm

# Pictures of more pixels than this are coded in strips.
WHOLE_PIXELS = 1024 * 1024

# Positions of a feature map in a strip, about: its rows above and below are few beside it, and it stays in the cache.
STRIP_POSITIONS = 1 << 16

# An upsampled map that is larger than this is not kept: its rows are computed each of the three times they are needed.
KEPT_BYTES = 1 << 31


class Conv(Protocol):
    """A convolution of strips: what lies above and below is part of its input, to the left and right it pads."""

    def strip(self, x: Tensor) -> Tensor: ...

    def strip_plus(self, x: Tensor, other: Tensor) -> Tensor:
        """The same plus `other`, which has the shape of the result."""
        ...


@dataclass(frozen=True)
class PlainConv:
    """A network's own convolution, with a kernel of 3×3 and a stride of 1."""

    conv: nn.Conv2d

    def strip(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.conv.weight, self.conv.bias, padding=(0, 1))

    def strip_plus(self, x: Tensor, other: Tensor) -> Tensor:
        return self.strip(x).add_(other)


class Moments:
    """Mean and variance of every channel of a feature map, gathered strip by strip."""

    def __init__(self) -> None:
        self._strips: list[tuple[int, Tensor, Tensor]] = []  # rows, means, variances

    def add(self, strip: Tensor) -> None:
        """strip: (1, C, rows, W)."""
        if strip.device.type in ("cpu", "cuda"):  # a kernel that reads once; float32 buffers make it give float32
            zeros = torch.zeros(strip.shape[1], device=strip.device)
            mean, variance = torch.batch_norm_update_stats(strip, zeros, zeros.clone(), 0.0)
        else:
            variance, mean = torch.var_mean(strip.float(), dim=(0, 2, 3), correction=0)
        self._strips.append((strip.shape[2], mean, variance))

    def normalisation(self, norm: PackedNorm) -> Callable[[Tensor], Tensor]:
        """SiLU of the group normalisation of any strip by the moments of them all."""
        rows = torch.tensor([rows for rows, _, _ in self._strips], dtype=torch.float64)[:, None]
        means = torch.stack([mean for _, mean, _ in self._strips]).cpu().double()  # (strips, C)
        squares = torch.stack([variance for _, _, variance in self._strips]).cpu().double() + means.square()
        of_channels = torch.stack([means, squares]).mul(rows / rows.sum()).sum(dim=1)  # (2, C)
        mean, square = of_channels.unflatten(1, (norm.groups, -1)).mean(dim=2)  # (groups,) each
        width = of_channels.shape[1] // norm.groups
        both = torch.stack([mean, square - mean.square()]).repeat_interleave(width, dim=1)
        mean, variance = both.float().to(norm.weight.device)
        weight, bias = norm.weight.float(), norm.bias.float()
        # normalising by given moments is what batch normalisation does once it is trained
        return lambda strip: silu(F.batch_norm(strip, mean, variance, weight, bias, eps=norm.eps))


class FeatureMap:
    """A feature map (1, C, H, W) that is filled from top to bottom."""

    def __init__(self, height: int, tensor: Tensor | None = None) -> None:
        self.height = height
        self.moments = Moments()
        self._tensor = tensor

    @classmethod
    def of(cls, tensor: Tensor) -> FeatureMap:
        """A map that is filled already."""
        found = cls(tensor.shape[2], tensor.contiguous(memory_format=torch.channels_last))
        for start, stop in found.strips():
            found.moments.add(found.rows(start, stop))
        return found

    @property
    def tensor(self) -> Tensor:
        """All of it."""
        assert self._tensor is not None
        return self._tensor

    @property
    def width(self) -> int:
        """W."""
        return self.tensor.shape[3]

    def strips(self) -> Iterator[tuple[int, int]]:
        """(start, stop) of the strips, from top to bottom."""
        return strips(self.height, self.width)

    def rows(self, start: int, stop: int) -> Tensor:
        """A view of some rows."""
        return self.tensor[:, :, start:stop]

    def put(self, start: int, strip: Tensor) -> None:
        """Fills in the next rows."""
        if self._tensor is None:
            shape = (1, strip.shape[1], self.height, strip.shape[3])
            self._tensor = torch.empty(
                shape, dtype=strip.dtype, device=strip.device, memory_format=torch.channels_last
            )
        self.rows(start, start + strip.shape[2]).copy_(strip)
        self.moments.add(strip)

    def emptied(self) -> FeatureMap:
        """A map to be filled in this one's memory; rows of this one must be read before they are overwritten."""
        return FeatureMap(self.height, self._tensor)


class UpsampledMap:
    """A map of twice the size, convolved, whose rows are computed from the small one whenever they are asked for."""

    def __init__(self, small: FeatureMap, part: Upsample | FoldedUpsample) -> None:
        self.height, self.width = 2 * small.height, 2 * small.width
        self._small, self._part = small, part
        self.moments = Moments()
        for start, stop in self.strips():
            self.moments.add(self.rows(start, stop))

    def strips(self) -> Iterator[tuple[int, int]]:
        """As of a `FeatureMap`."""
        return strips(self.height, self.width)

    def rows(self, start: int, stop: int) -> Tensor:
        """(1, C, stop - start, W)."""
        return upsampled_rows(self._small, self._part, start, stop)


AnyMap = FeatureMap | UpsampledMap


@dataclass(frozen=True, kw_only=True)
class Resnet:
    """The layers of a residual block."""

    norm1: PackedNorm
    conv1: Conv
    norm2: PackedNorm
    conv2: Conv
    shortcut: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, block: ResnetBlock | PackedResnet) -> Resnet:
        """Those of a network's own or packed block."""
        if isinstance(block, PackedResnet):
            return cls(
                norm1=block.norm1, conv1=block.conv1, norm2=block.norm2, conv2=block.conv2, shortcut=block.shortcut
            )
        own = block.conv_shortcut
        return cls(
            norm1=PackedNorm(block.norm1),
            conv1=PlainConv(block.conv1),
            norm2=PackedNorm(block.norm2),
            conv2=PlainConv(block.conv2),
            shortcut=(lambda x: x) if own is None else own,
        )

    def __call__(self, x: AnyMap) -> FeatureMap:
        """The block's result, of the same height and width."""
        h = FeatureMap(x.height)
        for start, strip in _convolved(x, self.norm1, self.conv1):
            h.put(start, strip)
        normalised = h.moments.normalisation(self.norm2)
        out = h.emptied()
        above = None
        for start, stop in x.strips():
            strip = normalised(h.rows(start, min(stop + 1, x.height)))
            edge = torch.zeros_like(strip[:, :, :1])
            below = [edge] if stop == x.height else []
            joined = torch.cat([edge if above is None else above, strip, *below], dim=2)
            above = strip[:, :, stop - start - 1 : stop - start]  # of h, of which this row is now overwritten
            out.put(start, self.conv2.strip_plus(joined, self.shortcut(x.rows(start, stop))))
        return out


class StripDecoder:
    """Latents to images; made of a VAE's decoder, packed or not, without copies of its weights."""

    def __init__(self, decoder: AutoencoderKL | PackedDecoder) -> None:
        self._begin: Callable[[Tensor], Tensor]
        self._parts: list[Part]
        self._last: Conv
        if isinstance(decoder, PackedDecoder):
            self._begin, self._norm, self._last = decoder.begin, decoder.norm_out, decoder.conv_out
            self._parts = [part for level in decoder.levels for part in level]
        else:
            own = decoder.decoder
            self._begin = partial(_begin_decoding, decoder)
            self._norm, self._last = PackedNorm(own.conv_norm_out), PlainConv(own.conv_out)
            self._parts = [part for level in own.up_blocks for part in _parts(cast(Level, level))]

    def decode(self, latents: Tensor) -> Tensor:
        """As `AutoencoderKL.decode`, for one picture: (1, C, h, w) to (1, 3, h*f, w*f)."""
        x: AnyMap = FeatureMap.of(self._begin(latents))
        for part in self._parts:
            if isinstance(part, Upsample | FoldedUpsample):
                assert isinstance(x, FeatureMap)
                x = _upsampled(x, part)
            else:
                assert isinstance(part, ResnetBlock | PackedResnet)
                x = Resnet.of(part)(x)
        return _whole(_convolved(x, self._norm, self._last))


class StripEncoder:
    """Images to latents; made of a VAE, without copies of its weights."""

    def __init__(self, vae: AutoencoderKL) -> None:
        self._vae = vae

    def encode_raw(self, images: Tensor) -> DiagonalGaussian:
        """As `AutoencoderKL.encode_raw`, for one picture: (1, 3, H, W) to a distribution of (1, C, H/f, W/f)."""
        encoder = self._vae.encoder
        height = images.shape[2]
        x = FeatureMap(height)
        for start, stop in strips(height, images.shape[3]):
            rows = _bordered(lambda a, b: images[:, :, a:b], start, stop, height)
            x.put(start, encoder.conv_in(rows)[:, :, 1:-1])  # called as a module: this brings offloaded weights
        for level in encoder.down_blocks:
            for part in _parts(cast(Level, level)):
                if isinstance(part, Downsample):
                    x = _downsampled(x, part.conv)
                else:
                    assert isinstance(part, ResnetBlock)
                    x = Resnet.of(part)(x)
        x = FeatureMap.of(encoder.mid_block(x.tensor))
        norm, last = PackedNorm(encoder.conv_norm_out), PlainConv(encoder.conv_out)
        return self._vae.distribution(_whole(_convolved(x, norm, last)))


def in_strips(height: int, width: int) -> bool:
    """Whether a picture of so many pixels is coded in strips."""
    return height * width > WHOLE_PIXELS


def strips(height: int, width: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of strips of rows, of an even number each if the height is even."""
    rows = max(2, STRIP_POSITIONS // width // 2 * 2)
    for start in range(0, height, rows):
        yield start, min(start + rows, height)


def upsampled_rows(small: FeatureMap, part: Upsample | FoldedUpsample, start: int, stop: int) -> Tensor:
    """Rows `start` to `stop` of a map of twice the size, convolved."""
    first, last = max((start - 1) // 2, 0), min(stop // 2 + 1, small.height)
    rows = small.rows(first, last)
    if isinstance(part, FoldedUpsample):
        return part(rows)[:, :, start - 2 * first : stop - 2 * first]
    large = F.interpolate(rows, scale_factor=2.0, mode="nearest")
    return PlainConv(part.conv).strip(
        _bordered(lambda a, b: large[:, :, a - 2 * first : b - 2 * first], start, stop, 2 * small.height)
    )


def _upsampled(small: FeatureMap, part: Upsample | FoldedUpsample) -> AnyMap:
    if 4 * small.tensor.nbytes > KEPT_BYTES:
        return UpsampledMap(small, part)
    large = FeatureMap(2 * small.height)
    for start, stop in strips(large.height, 2 * small.width):
        large.put(start, upsampled_rows(small, part, start, stop))
    return large


def _downsampled(x: FeatureMap, conv: nn.Conv2d) -> FeatureMap:
    """Half the size by a convolution with stride 2, after a row and column of zeros below and to the right."""
    small = FeatureMap(x.height // 2)
    for start, stop in strips(small.height, x.width // 2):
        rows = x.rows(2 * start, 2 * stop + 1)
        small.put(start, conv(F.pad(rows, (0, 1, 0, 2 * (stop - start) + 1 - rows.shape[2]))))
    return small


def _convolved(x: AnyMap, norm: PackedNorm, conv: Conv) -> Iterator[tuple[int, Tensor]]:
    """Normalisation, SiLU and convolution: the first row and the content of every strip."""
    normalised = x.moments.normalisation(norm)
    for start, stop in x.strips():
        yield start, conv.strip(_bordered(lambda a, b: normalised(x.rows(a, b)), start, stop, x.height))


def _whole(pieces: Iterator[tuple[int, Tensor]]) -> Tensor:
    return torch.cat([strip for _, strip in pieces], dim=2)


def _bordered(rows: Callable[[int, int], Tensor], start: int, stop: int, height: int) -> Tensor:
    """Rows `start` - 1 to `stop` + 1; zeros beyond the picture."""
    found = rows(max(start - 1, 0), min(stop + 1, height))
    above, below = int(start == 0), int(stop == height)
    return F.pad(found, (0, 0, above, below)) if above or below else found


def _begin_decoding(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    x = latents / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
    if vae.post_quant_conv is not None:
        x = vae.post_quant_conv(x)
    return vae.decoder.mid_block(vae.decoder.conv_in(x))


def _parts(level: Level) -> list[nn.Module]:
    return [*level.resnets, *level.downsamplers, *level.upsamplers]
