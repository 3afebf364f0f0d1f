"""The VAE's decoder rearranged for inference on a CPU: the arithmetic of `networks.vae.Decoder` in fewer steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from wordbrush.networks.blocks import ResnetBlock, Upsample
from wordbrush.networks.pixels import Pixels
from wordbrush.networks.tiny_vae import Autoencoder, TinyAutoencoder
from wordbrush.networks.vae import AutoencoderKL, Level
from wordbrush.runtime.packed_unet import PackedResnet
from wordbrush.runtime.packing import FoldedUpsample, PackedConv, PackedNorm, can_pack
from wordbrush.runtime.policy import Runtime

Part = Callable[[Tensor], Tensor]


def fastest_decoder(vae: Autoencoder, runtime: Runtime) -> Autoencoder | PackedDecoder:
    """What to decode with: a packed copy where that is possible, else the given network, in its place already."""
    if isinstance(vae, TinyAutoencoder | Pixels):
        return vae
    return PackedDecoder(vae) if can_pack(runtime.device, runtime.dtype) else vae


class PackedDecoder:
    """Latents to images, made from a VAE whose weights it copies."""

    def __init__(self, vae: AutoencoderKL) -> None:
        decoder = vae.decoder
        self.config = vae.config
        self.post_quant_conv = vae.post_quant_conv
        self.norm_out = PackedNorm(decoder.conv_norm_out)
        with torch.no_grad():
            self.conv_in, self.conv_out = PackedConv(decoder.conv_in), PackedConv(decoder.conv_out)
            middle = decoder.mid_block
            self.middle = [_packed(part) for part in (middle.resnets[0], *middle.attentions, middle.resnets[1])]
            self.levels = [_packed_level(cast(Level, level)) for level in decoder.up_blocks]

    def decode(self, latents: Tensor) -> Tensor:
        """Returns images (B, 3, h*f, w*f), about [-1, 1] but not clipped, for scaled latents (B, C, h, w)."""
        x = self.begin(latents)
        for level in self.levels:
            for part in level:
                x = part(x)
        return self.conv_out(self.norm_out.silu(x))

    def begin(self, latents: Tensor) -> Tensor:
        """What is done at the size of the latents: they go in, the levels' feature map (B, C', h, w) comes out."""
        x = latents / self.config.scaling_factor + (self.config.shift_factor or 0.0)
        x = x.contiguous(memory_format=torch.channels_last)
        x = self.conv_in(x if self.post_quant_conv is None else self.post_quant_conv(x))
        for part in self.middle:
            x = part(x)
        return x


def _packed_level(level: Level) -> list[Part]:
    return [_packed(part) for part in (*level.resnets, *level.upsamplers)]


def _packed(part: nn.Module) -> Part:
    if isinstance(part, ResnetBlock):
        return PackedResnet(part)
    return FoldedUpsample(part.conv) if isinstance(part, Upsample) else part
