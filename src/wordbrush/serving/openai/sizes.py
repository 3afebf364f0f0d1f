"""Sizes that clients of hosted models ask for, reached in the way that a model can.

Such clients ask for 1024x1024 as a matter of course. A model asked for more pixels than it was trained on fills them
with repetitions, so a larger picture is painted at the model's own size, of the wanted shape, and enlarged.
"""

from __future__ import annotations

import math
import re
from typing import Any

from wordbrush.serving.errors import Refused
from wordbrush.serving.openai.errors import bad

Size = tuple[int, int]
"""(width, height) in pixels."""

AUTO = "auto"

LARGEST_FACTOR = 8.0
"""How many times a picture is enlarged at most."""

_STEP = 8  # what sides are multiples of in every model; what a model wants beyond that, it says itself

# Sides in multiples of the model's own (square roots of areas): up to the first a picture is painted as it is, and up
# to the second it may be where that gives the wanted shape.
_OWN, _LARGEST_BASE, _SMALLEST_BASE = 1.25, 1.5, 0.6

# Models below this side are tiny: a second loop repeats things, too, and only an upscaler helps.
_TINY = 256

# Beyond this a second loop costs more than it draws.
_LARGEST_LOOP = 2.0

# Enough for latents that were interpolated to become sharp again, and too little for another composition.
_SECOND_LOOP = 0.55


def read_size(text: str | None) -> Size | None:
    """A size as clients write it, "1024x1024"; None for "auto".

    Raises:
        Refused: it is neither.
    """
    if text is None or text == AUTO:
        return None
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if match is None:
        raise bad(f"size={text!r} is no size; give WIDTHxHEIGHT such as 512x512, or auto", "size")
    return int(match[1]), int(match[2])


def fields_for(size: Size, own: Size | None, *, from_picture: bool = False) -> dict[str, Any]:
    """The fields of a request that give pictures of exactly this size.

    Args:
        own: the size that the model paints by itself; None where it is not known: then `size` is painted as it is.
        from_picture: the request begins from a picture, so there is no second loop.

    Raises:
        Refused: the size does not fit the model's grid, or cannot be reached by enlarging.
    """
    if own is None or _sides(size) <= _OWN * _sides(own):
        _on_grid(size)
        return {"width": size[0], "height": size[1]}
    base = _base(size, own)
    if base is None and not is_larger(size, own):
        _on_grid(size)
        return {"width": size[0], "height": size[1]}
    if base is None:
        raise _unreachable(size, own)
    factor = size[0] / base[0]
    fields: dict[str, Any] = {"width": base[0], "height": base[1]}
    if min(own) < _TINY or from_picture or factor > _LARGEST_LOOP:
        return fields | {"upscale": factor}
    return fields | {"hires": {"scale": factor, "strength": _SECOND_LOOP}}


def fields_near(size: Size, own: Size) -> dict[str, Any]:
    """The fields that give a picture of this shape, begun from one of this size, and as near to it as may be."""
    shrunk = min(1.0, _sides(own) / _sides(size))
    width, height = (max(1, round(side * shrunk / _STEP)) * _STEP for side in size)
    factor = min(LARGEST_FACTOR, _sides(size) / _sides((width, height)))
    fields: dict[str, Any] = {"width": width, "height": height}
    return fields | {"upscale": factor} if factor > 1 else fields


def is_larger(size: Size, own: Size | None) -> bool:
    """Whether a picture of this size is more than the model paints at once."""
    return own is not None and _sides(size) > _LARGEST_BASE * _sides(own)


def _sides(size: Size) -> float:
    return math.sqrt(size[0] * size[1])


def _on_grid(size: Size) -> None:
    for side in size:
        if side % _STEP or side == 0:
            near = " and ".join(str(value) for value in _neighbours(side))
            raise bad(
                f"size={size[0]}x{size[1]} does not fit: sides are multiples of {_STEP}; near {side} are {near}", "size"
            )


def _neighbours(side: int) -> tuple[int, ...]:
    below = side // _STEP * _STEP
    return (below, below + _STEP) if below else (_STEP,)


def _base(size: Size, own: Size) -> Size | None:
    """The size nearest to the model's own, on its grid, that one factor makes exactly the wanted one."""
    found: list[tuple[float, Size]] = []
    most = int(_LARGEST_BASE * _sides(own) * math.sqrt(size[0] / size[1])) + _STEP
    for width in range(_STEP, most + 1, _STEP):
        factor = size[0] / width
        height = max(1, round(size[1] / factor / _STEP)) * _STEP
        exact = round(width * factor) == size[0] and round(height * factor) == size[1]
        part = _sides((width, height)) / _sides(own)
        if exact and 1 < factor <= LARGEST_FACTOR and _SMALLEST_BASE <= part <= _LARGEST_BASE:
            found.append((abs(math.log(part)), (width, height)))
    return min(found)[1] if found else None


def _unreachable(size: Size, own: Size) -> Refused:
    wanted = f"size={size[0]}x{size[1]} cannot be reached: the model paints {own[0]}x{own[1]}"
    largest = _LARGEST_BASE * LARGEST_FACTOR
    if _sides(size) > largest * _sides(own):
        sides = " by ".join(str(int(largest * side)) for side in own)
        return bad(f"{wanted}, enlarged at most {LARGEST_FACTOR:g} times; the most is {sides} pixels", "size")
    near = tuple(round(side / 64) * 64 for side in size)
    return bad(f"{wanted}, and no size on its grid has this shape; try {near[0]}x{near[1]}", "size")
