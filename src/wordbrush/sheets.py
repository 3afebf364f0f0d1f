"""Many pictures on one: contact sheets, and the film strip of a trajectory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.ImageFont import FreeTypeFont

GAP = 8
PAPER, INK = "white", "#333333"
# Pictures smaller than this are enlarged by a whole factor, so that labels fit and pixels stay sharp.
LEAST_SIDE = 128
# From the least to the largest: black-blue, violet, red, orange, pale yellow; each lighter than the one before.
_HEAT = ((8, 8, 40), (85, 20, 120), (190, 45, 85), (245, 130, 35), (255, 240, 150))
_HEAT_SHARE = 0.65


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One column of a film strip: a label, x_t decoded, and the predicted x0 (None before the first step)."""

    label: str
    noisy: Image.Image
    clean: Image.Image | None


def contact_sheet(pictures: Sequence[Image.Image], labels: Sequence[str], columns: int | None = None) -> Image.Image:
    """Pictures of one size in a grid, each with its label below in at most two lines.

    columns: by default about as many as there are rows.
    """
    if not pictures or len(pictures) != len(labels):
        raise ValueError(f"{len(pictures)} pictures with {len(labels)} labels; give one label for each of at least one")
    pictures = [_enlarged(picture) for picture in pictures]
    columns = columns or math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    font = _font()
    width, height = (max(sides) for sides in zip(*(picture.size for picture in pictures), strict=True))
    band = 2 * _line_height(font) + GAP
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (height + band + GAP) + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        left, top = GAP + number % columns * (width + GAP), GAP + number // columns * (height + band + GAP)
        sheet.paste(picture, (left, top))
        text = "\n".join(_wrapped(label, width, font)[:2])
        draw.multiline_text((left, top + height + GAP // 2), text, fill=INK, font=font)
    return sheet


def labelled_grid(
    pictures: Sequence[Sequence[Image.Image]], columns: Sequence[str], rows: Sequence[str], title: str = ""
) -> Image.Image:
    """Pictures in rows, with a label above every column, one to the left of every row, and a title over all.

    Pictures may differ in size; each stands in the middle of its square.
    """
    if not pictures or len(pictures) != len(rows) or any(len(row) != len(columns) for row in pictures):
        raise ValueError(f"the pictures do not fill {len(rows)} rows of {len(columns)}")
    shown = [[_enlarged(picture) for picture in row] for row in pictures]
    width, height = (max(picture.size[side] for row in shown for picture in row) for side in (0, 1))
    font = _font()
    line = _line_height(font)
    heads = [_wrapped(label, width, font)[:3] for label in columns]
    sides = [_wrapped(label, 2 * LEAST_SIDE, font)[:4] for label in rows]
    left = max((math.ceil(font.getlength(text)) for side in sides for text in side), default=-GAP) + 2 * GAP
    top = (line + GAP if title else 0) + max(1, *(len(head) for head in heads)) * line + 2 * GAP
    size = (left + len(columns) * (width + GAP), top + len(rows) * (height + GAP))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((left, GAP), " ".join(title.split()), fill=INK, font=font)
    for number, head in enumerate(heads):
        middle = left + number * (width + GAP) + width / 2
        draw.multiline_text((middle, top - GAP), "\n".join(head), fill=INK, font=font, anchor="md", align="center")
    for number, side in enumerate(sides):
        middle = top + number * (height + GAP) + height / 2
        draw.multiline_text((left - GAP, middle), "\n".join(side), fill=INK, font=font, anchor="rm", align="right")
        for column, picture in enumerate(shown[number]):
            x = left + column * (width + GAP) + (width - picture.width) // 2
            sheet.paste(picture, (x, round(middle - picture.height / 2)))
    return sheet


def stacked(sheets: Sequence[Image.Image]) -> Image.Image:
    """Sheets under one another, on one."""
    whole = Image.new("RGB", (max(sheet.width for sheet in sheets), sum(sheet.height for sheet in sheets)), PAPER)
    top = 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height
    return whole


def film_strip(frames: Sequence[Frame]) -> Image.Image:
    """The way from noise to picture: a column a step, x_t above, the predicted x0 below, labels on top."""
    font, line = _font(), _line_height(_font())
    noisy = [_enlarged(frame.noisy) for frame in frames]
    width, height = noisy[0].size
    margin = max(math.ceil(font.getlength(text)) for text in ("x", "x0")) + 2 * GAP
    strip = Image.new("RGB", (margin + len(frames) * (width + GAP), line + 2 * height + 4 * GAP), PAPER)
    draw = ImageDraw.Draw(strip)
    for row, text in enumerate(("x", "x0")):
        draw.text((GAP, line + 2 * GAP + row * (height + GAP) + height // 2), text, fill=INK, font=font, anchor="lm")
    for number, frame in enumerate(frames):
        left, top = margin + number * (width + GAP), line + 2 * GAP
        draw.text((left + width // 2, GAP), frame.label, fill=INK, font=font, anchor="mt")
        strip.paste(noisy[number], (left, top))
        if frame.clean is not None:
            strip.paste(_enlarged(frame.clean), (left, top + height + GAP))
    return strip


def heat_overlay(picture: Image.Image, heat: NDArray[np.float32]) -> Image.Image:
    """A map (H, W) over a picture of that size: dark blue at its least value, through red, to yellow at its largest.

    The picture is seen in grey underneath, so that all colour is the map's.
    """
    import numpy as np

    least, most = float(heat.min()), float(heat.max())
    level = (heat - least) / (most - least) if most > least else np.zeros_like(heat)
    places = np.linspace(0.0, 1.0, len(_HEAT))
    colours = np.stack([np.interp(level, places, channel) for channel in zip(*_HEAT, strict=True)], axis=2)
    grey = np.asarray(picture.convert("L"), dtype=np.float32)[:, :, None]
    mixed = grey * (1 - _HEAT_SHARE) + colours * _HEAT_SHARE
    return Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))


def _enlarged(picture: Image.Image) -> Image.Image:
    factor = math.ceil(LEAST_SIDE / max(picture.size))
    size = (picture.width * factor, picture.height * factor)
    return picture if factor <= 1 else picture.resize(size, Image.Resampling.NEAREST)


def _font() -> FreeTypeFont:
    font = ImageFont.load_default(size=12)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise TypeError("this Pillow was built without FreeType, which draws the labels; install Pillow's own wheel")
    return font


def _line_height(font: FreeTypeFont) -> int:
    return sum(font.getmetrics()) + 2


def _wrapped(text: str, width: int, font: FreeTypeFont) -> list[str]:
    """The text in lines that fit the width; a word longer than a line is cut."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            while len(word) > 1 and font.getlength(word) > width:
                word = word[:-1]
            lines.append(word)
    return lines
