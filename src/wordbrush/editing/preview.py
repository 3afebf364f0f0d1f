"""Cheap pictures of latents while they are painted: one colour for each latent, by a linear map.

To see what a loop is at, no decoder is needed: the mean colour of the pixels under a latent is nearly a linear function
of its channels. The function is fitted by least squares to scenes that the model's own VAE encodes, once for each VAE,
and kept in the user's cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from wordbrush.editing.start import image_tensor
from wordbrush.errors import WorkFailed
from wordbrush.formats.user_folders import cache_folder
from wordbrush.metadata import write_whole
from wordbrush.networks.pixels import Pixels
from wordbrush.networks.tiny_vae import TinyAutoencoder
from wordbrush.runtime.codec import Codec

if TYPE_CHECKING:
    from PIL import Image

# The scenes it is fitted to, and how many latents their sides have.
_SCENES, _SIDE = 16, 16

# A preview is enlarged by whole factors up to about this many pixels a side.
_LARGEST = 384
_QUALITY = 80


@dataclass(frozen=True)
class Preview:
    """How one VAE's latents look.

    Attributes:
        weights: (C + 1, 3): red, green and blue in [-1, 1] of each channel, and at last of none. None where latents are
            decoded: the codec then has a decoder that is made for previews.
        codec: the VAE's.
    """

    codec: Codec
    weights: Tensor | None

    def colours(self, latents: Tensor) -> Tensor:
        """(3, h, w) in [-1, 1], not clipped, of latents (C, h, w)."""
        if self.weights is None:
            return self.codec.decode(latents[None])[0]
        flat = latents.detach().float().cpu().flatten(1)  # (C, h * w)
        mixed = self.weights[:-1].T @ flat + self.weights[-1][:, None]
        return mixed.unflatten(1, latents.shape[1:])

    def picture(self, latents: Tensor) -> Image.Image:
        """RGB, enlarged towards the size of the decoded picture."""
        from PIL import Image

        pixels = (self.colours(latents).nan_to_num(0.0) * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
        picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())
        factor = max(1, min(self.codec.downscale, _LARGEST // max(picture.size)))
        if factor == 1 and max(picture.size) > _LARGEST:
            picture.thumbnail((_LARGEST, _LARGEST))
            return picture
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.BICUBIC)

    def jpeg(self, latents: Tensor) -> bytes:
        """`picture` as a JPEG file."""
        buffer = BytesIO()
        self.picture(latents).save(buffer, format="JPEG", quality=_QUALITY)
        return buffer.getvalue()


# Not the previews: they hold their codecs, whose models would never be given up.
_known: WeakKeyDictionary[Codec, Tensor | None] = WeakKeyDictionary()


def preview_of(codec: Codec) -> Preview:
    """How the latents of a codec look; fitted when it is asked for the first time, or read from the cache."""
    if codec not in _known:
        decodes = isinstance(codec.vae, TinyAutoencoder | Pixels)
        _known[codec] = None if decodes else _weights(codec)
    return Preview(codec, _known[codec])


def _weights(codec: Codec) -> Tensor:
    path = cache_folder() / "previews" / f"{_hash(codec)}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        weights = torch.tensor(json.loads(path.read_text(encoding="utf-8")), dtype=torch.float32)
        if weights.shape == (codec.latent_channels + 1, 3) and weights.isfinite().all():
            return weights
    weights = fitted(codec)
    with contextlib.suppress(WorkFailed):  # without a cache it is fitted again next time
        write_whole(path, json.dumps([[round(value, 6) for value in row] for row in weights.tolist()]).encode())
    return weights


def fitted(codec: Codec, scenes: int = _SCENES) -> Tensor:
    """The least-squares map (C + 1, 3) from latents to the mean colours of the pixels under them."""
    from PIL import Image

    from wordbrush.data.scenes import render, sample_scene

    side, rows, wanted = _SIDE * codec.downscale, [], []
    for index in range(scenes):
        drawn = Image.fromarray(render(sample_scene("train", 0, index)))
        picture = drawn if drawn.size == (side, side) else drawn.resize((side, side), Image.Resampling.BICUBIC)
        image = image_tensor(picture)
        latents = codec.encode(image)[0].float().cpu()
        rows.append(F.pad(latents.flatten(1).T, (0, 1), value=1.0))  # (h * w, C + 1)
        wanted.append(F.avg_pool2d(image, codec.downscale)[0].flatten(1).T)  # (h * w, 3)
    return torch.linalg.lstsq(torch.cat(rows).double(), torch.cat(wanted).double()).solution.float()


def _hash(codec: Codec) -> str:
    """Of the VAE's weights as they are."""
    digest = hashlib.sha256(repr(codec.vae.config).encode())
    for name, tensor in sorted(codec.vae.state_dict().items()):
        plain = tensor.detach().cpu().contiguous()
        digest.update(name.encode())
        digest.update(plain.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]
