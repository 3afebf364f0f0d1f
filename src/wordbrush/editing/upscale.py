"""Larger pictures: by an upscaler, or by a filter; any size, in tiles, and one picture at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wordbrush.errors import ModelFileError, RequestError
from wordbrush.formats.library import Library
from wordbrush.formats.library_scan import UPSCALER
from wordbrush.formats.upscalers import SHIPPED_SCALES, UpscalerNetwork, read_upscaler, shipped_upscaler
from wordbrush.networks.srresnet import SRResNet
from wordbrush.pictures import alpha_of, as_rgb
from wordbrush.request import GenerationRequest
from wordbrush.request_fields import FILTERS, LATENT_UPSCALERS, SHIPPED_UPSCALER
from wordbrush.runtime.policy import Runtime
from wordbrush.runtime.tiles import enlarge_in_tiles

if TYPE_CHECKING:
    from PIL import Image

MOST_PIXELS = 16384**2
"""A larger picture is refused: its pixels alone are 800 MB."""


class Upscaler:
    """Makes pictures larger by any factor: by networks of certain scales, then to the very size by Lanczos."""

    def __init__(self, name: str, networks: list[UpscalerNetwork], runtime: Runtime) -> None:
        """networks: of one kind for several scales, or one; none is a filter of this name. They are moved in place."""
        self.name = name
        self._networks = {}
        for network in networks:
            own = replace(runtime, offloaded=False)
            if runtime.dtype == torch.bfloat16 and not network.adds_picture:  # which has but 128 levels below white
                own = replace(own, dtype=torch.float32)
            self._networks[network.config.scale] = (own.place(network), own)

    def enlarge(self, picture: Image.Image, factor: float) -> Image.Image:
        """A picture `factor` times as large, RGB or, where it was transparent, RGBA.

        Raises:
            RequestError: it would have more than `MOST_PIXELS` pixels.
            WorkFailed: the network gave numbers that are not finite.
        """
        from PIL import Image

        size = enlarged_size(picture.size, factor)
        alpha = alpha_of(picture)
        large = self._enlarged(as_rgb(picture, on_white=False), size, factor)
        if alpha is None:
            return large
        large.putalpha(alpha.resize(size, Image.Resampling.LANCZOS))
        return large

    def _enlarged(self, picture: Image.Image, size: tuple[int, int], factor: float) -> Image.Image:
        import numpy as np
        from PIL import Image

        if not self._networks:
            return picture.resize(size, Image.Resampling[self.name.upper()])
        reached = 1.0
        while reached < factor:
            scale = min((s for s in self._networks if s * reached >= factor), default=max(self._networks))
            network, runtime = self._networks[scale]
            run = partial(_run, network, runtime)
            picture = Image.fromarray(enlarge_in_tiles(np.asarray(picture), scale, network.config.reach, run))
            reached *= scale
            if scale == 1:  # it cleans pictures and makes none larger
                break
        return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)


@torch.inference_mode()
def _run(network: UpscalerNetwork, runtime: Runtime, images: Tensor) -> Tensor:
    """(1, 3, h, w) in [0, 1] to the same, larger."""
    images = images.to(runtime.device, memory_format=torch.channels_last)
    if isinstance(network, SRResNet):  # which works in [-1, 1]
        return (network(images * 2.0 - 1.0) + 1.0) / 2.0
    return network(images)


def enlarged_size(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """(width, height) times a factor. Raises `RequestError` when that are more than `MOST_PIXELS` pixels."""
    width, height = (max(1, round(side * factor)) for side in size)
    if width * height > MOST_PIXELS:
        raise RequestError(
            f"{size[0]}x{size[1]} made {factor:g} times as large is {width}x{height}, more than "
            f"{MOST_PIXELS // 10**6} million pixels; choose a smaller scale"
        )
    return width, height


def find_upscaler(name: str) -> list[Path]:
    """The files of an upscaler: none for a filter, several where there is one for each scale.

    Raises:
        RequestError: there is nothing of that name in the library, nor a file or folder.
    """
    if name in FILTERS:
        return []
    if name == SHIPPED_UPSCALER:
        return [shipped_upscaler(scale) for scale in SHIPPED_SCALES]
    try:
        return [Library.default().find(UPSCALER, name)]
    except ModelFileError as error:
        own = ", ".join((SHIPPED_UPSCALER, *FILTERS))
        raise RequestError(f"{error}; without any file there are {own}") from error


class UpscalerShelf:
    """Upscalers by name, kept once they are read."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._read: dict[str, Upscaler] = {}

    def named(self, name: str) -> Upscaler:
        """Raises `RequestError` for an unknown name, `ModelFileError` for a file that cannot be used."""
        if name not in self._read:
            self._read[name] = Upscaler(name, [read_upscaler(path) for path in find_upscaler(name)], self._runtime)
        return self._read[name]

    def read_for(self, request: GenerationRequest) -> None:
        """Reads what a filled-in request enlarges by: a file of no use is refused before anything is painted.

        Raises as `named`.
        """
        if request.upscaler is not None:
            self.named(request.upscaler)
        if request.hires is not None and request.hires.upscaler not in LATENT_UPSCALERS:
            self.named(request.hires.upscaler)


Named = Callable[[str], Upscaler]
"""The upscaler of a name."""
