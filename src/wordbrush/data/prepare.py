"""From a picture of any size to the size of a step, and from a caption to what is trained on."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from wordbrush.data.buckets import Size

VERSION = 1
"""Part of the key of everything cached: raised when the same picture and cut no longer give the same pixels."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How a picture becomes one of `size`.

    Attributes:
        size: width and height.
        fit: cover: resized to just cover the size, then cut; native: cut out of the picture as it is, which is
            enlarged first if it is smaller.
        at: where the cut lies across and down: 0 is the left or upper end, 1 the other.
        flip: mirrored left to right.
    """

    size: Size
    fit: Literal["cover", "native"] = "cover"
    at: tuple[float, float] = (0.5, 0.5)
    flip: bool = False

    def __str__(self) -> str:
        across, down = self.at
        return f"v{VERSION} {self.size[0]}x{self.size[1]} {self.fit} {across!r},{down!r} {'flip' if self.flip else ''}"


def cut_out(picture: np.ndarray, cut: Cut) -> tuple[np.ndarray, tuple[int, int]]:
    """The (h, w, 3) uint8 pixels of a cut of an (H, W, 3) picture, and the cut's upper left corner (top, left).

    The corner is in pixels of the resized and mirrored picture, as SDXL is told it (Podell 2023, section 2.2).
    """
    height, width = picture.shape[:2]
    wide, high = cut.size
    scale = max(wide / width, high / height)
    if cut.fit == "native":
        scale = max(1.0, scale)
    box_width, box_height = min(wide / scale, width), min(high / scale, height)
    left, top = cut.at[0] * (width - box_width), cut.at[1] * (height - box_height)
    if scale == 1.0:
        x, y = round(left), round(top)
        pixels = picture[y : y + high, x : x + wide]
    else:
        box = (left, top, left + box_width, top + box_height)
        drawn = Image.fromarray(picture).resize(cut.size, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
        pixels = np.asarray(drawn)
    corner = round(top * scale), round(left * scale)
    if cut.flip:
        return pixels[:, ::-1], (corner[0], max(0, round(width * scale) - wide - corner[1]))
    return pixels, corner


@dataclass(frozen=True, kw_only=True)
class CaptionRules:
    """What happens to a caption each time it is read; see `training.data_recipe.Captions`."""

    drop: float = 0.0
    shuffle: bool = False
    keep: int = 0
    drop_tags: float = 0.0
    separator: str = ","
    before: str = ""
    after: str = ""
    trigger: str = ""

    def applied(self, caption: str, draw: random.Random) -> str:
        """The caption as it is trained on. It takes the same draws whatever it says, but for its tags."""
        dropped = draw.random() < self.drop
        if self.shuffle or self.drop_tags:
            caption = self._tags(caption, draw)
        if self.trigger and self.trigger.lower() not in caption.lower():
            caption = f"{self.trigger}, {caption}" if caption else self.trigger
        return "" if dropped else f"{self.before}{caption}{self.after}"

    def _tags(self, caption: str, draw: random.Random) -> str:
        tags = [tag.strip() for tag in caption.split(self.separator)]
        kept, rest = tags[: self.keep], tags[self.keep :]
        if self.shuffle:
            draw.shuffle(rest)
        if self.drop_tags:
            rest = [tag for tag in rest if draw.random() >= self.drop_tags]
        mark = self.separator if self.separator.isspace() else f"{self.separator.strip()} "
        return mark.join(kept + rest)
