"""The pictures of things: the glyph pack (Noto Color Emoji) and sprites cut from it at any size and colour."""

from __future__ import annotations

import io
import json
import zipfile
from functools import cache, lru_cache
from importlib import resources

import numpy as np
from PIL import Image

GLYPH = 128
"""Pixels that the longer side of a glyph has in the pack: nothing that is drawn larger has more detail."""

Sprite = np.ndarray
"""(h, w, 4) float32 in [0, 1], colour premultiplied by alpha, trimmed to the glyph's own outline."""

COLOURS: dict[str, tuple[float, float, float]] = {
    # hue in [0, 1), saturation, value of a glyph's main tone once it is painted that colour
    "red": (0.995, 0.85, 0.88),
    "orange": (0.075, 0.92, 1.00),
    "yellow": (0.145, 0.85, 1.00),
    "green": (0.365, 0.80, 0.66),
    "blue": (0.595, 0.85, 0.90),
    "purple": (0.775, 0.68, 0.72),
    "pink": (0.930, 0.45, 1.00),
    "gray": (0.600, 0.04, 0.60),
}


@cache
def _archive() -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(resources.files(__package__).joinpath("glyphs.zip").read_bytes()))


@cache
def glyph_names() -> dict[str, dict[str, object]]:
    """Every emoji in the pack with its CLDR `name` and `keywords`."""
    return json.loads(_archive().read("names.json"))


@lru_cache(maxsize=2048)
def glyph(emoji: str) -> Image.Image:
    """The glyph as it is in the pack, RGBA, trimmed to its outline (longer side 128).

    Raises KeyError if the pack has no such emoji.
    """
    picture = Image.open(io.BytesIO(_archive().read(f"{ord(emoji):x}.webp"))).convert("RGBA")
    return picture.crop(picture.getchannel("A").point(lambda alpha: 255 if alpha > 16 else 0).getbbox())


def recolour(picture: Image.Image, colour: str) -> Image.Image:
    """Paints the glyph's main tone (its most common saturated hue) in `colour`; shading and other tones stay."""
    rgba = np.asarray(picture)
    hsv = np.asarray(picture.convert("RGB").convert("HSV")).astype(np.float32) / 255
    hue, saturation, value = hsv[..., 0], hsv[..., 1], hsv[..., 2]
    chromatic = (saturation > 0.25) & (value > 0.2) & (rgba[..., 3] > 128)
    if not chromatic.any():
        chromatic = rgba[..., 3] > 128
    histogram = np.bincount((hue[chromatic] * 36).astype(int) % 36, minlength=36)
    main_hue = (np.argmax(histogram + np.roll(histogram, 1) + np.roll(histogram, -1)) + 0.5) / 36
    distance = np.abs((hue - main_hue + 0.5) % 1 - 0.5)
    member = (distance < 0.10) & (saturation > 0.18)
    target_hue, target_saturation, target_value = COLOURS[colour]
    reference = member & chromatic
    scale_s = target_saturation / max(float(np.median(saturation[reference])), 0.05)
    scale_v = target_value / max(float(np.median(value[reference])), 0.05)
    painted = hsv.copy()
    painted[..., 0][member] = target_hue
    painted[..., 1][member] = np.clip(saturation * scale_s, 0, 1)[member]
    painted[..., 2][member] = np.clip(value * scale_v, 0, 1)[member]
    rgb = np.asarray(Image.fromarray((painted * 255).astype(np.uint8), "HSV").convert("RGB"))
    return Image.fromarray(np.dstack([rgb, rgba[..., 3]]), "RGBA")


@lru_cache(maxsize=20_000)
def sprite(emoji: str, size: int, colour: str | None = None) -> Sprite:
    """As `draw_sprite`, kept for the next time: scenes have few sizes."""
    return draw_sprite(emoji, size, colour)


def draw_sprite(emoji: str, size: int, colour: str | None = None) -> Sprite:
    """The glyph scaled so that its longer side is `size` pixels, optionally recoloured (a name in `COLOURS`)."""
    picture = glyph(emoji) if colour is None else recolour(glyph(emoji), colour)
    scale = size / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    array = np.asarray(picture).astype(np.float32) / 255
    array[..., :3] *= array[..., 3:]
    channels = [
        Image.fromarray(array[..., index]).resize(
            (width, height), Image.Resampling.BOX if scale < 0.5 else Image.Resampling.LANCZOS
        )
        for index in range(4)
    ]
    return np.clip(np.stack([np.asarray(channel) for channel in channels], axis=-1), 0, 1)
