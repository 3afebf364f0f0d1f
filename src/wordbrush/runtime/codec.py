"""The autoencoder as the pipeline uses it: pictures to latents and back, in a number format that can hold them.

A model of pixels has none (`Pixels`), and its latents are the pictures.

Large pictures go through it in strips, so that their size costs time but little memory.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from wordbrush.networks.pixels import Pixels
from wordbrush.networks.tiny_vae import Autoencoder, TinyAutoencoder
from wordbrush.runtime.packed_vae import PackedDecoder, fastest_decoder
from wordbrush.runtime.policy import Runtime
from wordbrush.runtime.strips import StripDecoder, StripEncoder, in_strips
from wordbrush.runtime.tiny_strips import TinyStrips


class Codec:
    """An autoencoder on a device. One that overflows in float16 by its own account runs in float32 there.

    Attributes:
        runtime: where and in which number format it runs.
        vae: the network, moved there in place; for inference, it may run a rearranged copy.
        note: what a user should know, once something had to be done again another way; else None.
    """

    def __init__(self, vae: Autoencoder, runtime: Runtime) -> None:
        self.runtime = runtime.suiting(vae)
        self.vae = self.runtime.place(vae)
        self.note: str | None = None
        self._short_of_memory = False

    @cached_property
    def _decoder(self) -> Autoencoder | PackedDecoder:
        return fastest_decoder(self.vae, self.runtime)

    @property
    def latent_channels(self) -> int:
        """Of latents (B, C, h, w)."""
        return self.vae.config.latent_channels

    @property
    def downscale(self) -> int:
        """Pixels per latent along each side."""
        return self.vae.config.downscale

    @torch.inference_mode()
    def encode(self, images: Tensor, *, scaled: bool = True) -> Tensor:
        """The most likely latents (B, C, h, w) float32 of images (B, 3, H, W) in [-1, 1].

        scaled: to about unit variance; else as the bare network gives them. A tiny autoencoder gives them so itself.
        """
        if isinstance(self.vae, Pixels):
            return images.to(self.runtime.device, torch.float32)
        images = images.to(self.runtime.device, self.runtime.dtype)
        large, vae = in_strips(*images.shape[2:]), self.vae
        if isinstance(vae, TinyAutoencoder):
            return (TinyStrips(vae) if large else vae).encode(images).float()
        raws = [StripEncoder(vae).encode_raw(image[None]) for image in images] if large else [vae.encode_raw(images)]
        return torch.cat([(vae.scaled(raw) if scaled else raw).mode().float() for raw in raws])

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) float32, about [-1, 1] but not clipped, of finite latents (B, C, h, w).

        One at a time: larger batches are no faster here, and a picture's bits then cannot depend on its neighbours.
        A picture that is not finite is decoded again in float32, and so is every one after it; one that a GPU has no
        room for is decoded again in strips.
        """
        if isinstance(self.vae, Pixels):
            return latents.float()
        return torch.cat([self._decoded(row[None]) for row in latents])

    def _decoded(self, row: Tensor) -> Tensor:
        image = self._image(row)
        if self.runtime.dtype == torch.float32 or torch.isfinite(image).all():
            return image
        self._say(f"the VAE overflowed in {self.runtime.dtype_name}, so pictures are decoded in float32")
        self.runtime = replace(self.runtime, dtype=torch.float32, offloaded=False)
        self._decoder = fastest_decoder(self.runtime.place(deepcopy(self.vae)), self.runtime)
        return self._image(row)

    def _image(self, row: Tensor) -> Tensor:
        row = row.to(self.runtime.device, self.runtime.dtype)
        if not (self._short_of_memory or in_strips(row.shape[2] * self.downscale, row.shape[3] * self.downscale)):
            try:
                return self._decoder.decode(row).float()
            except torch.OutOfMemoryError:
                self._short_of_memory = True
                self._say("the GPU has no room to decode pictures whole, so they are decoded in strips")
        if isinstance(self._decoder, TinyAutoencoder):
            return TinyStrips(self._decoder).decode(row).float()
        assert not isinstance(self._decoder, Pixels)
        return StripDecoder(self._decoder).decode(row).float()

    def _say(self, note: str) -> None:
        self.note = note if self.note is None else f"{self.note}; {note}"
