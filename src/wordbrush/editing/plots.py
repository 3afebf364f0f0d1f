"""X/Y/Z plots and prompt matrices: one request in many forms, for a grid whose sides say what differs.

    guidance=1,4,8            values
    steps=5-20:5              from 5 to 20 in steps of 5; 1-4 counts by one, 0-1[5] is five values evenly spread
    replace=fox,cat,"a, b"    the first text of the prompt becomes each of them in turn
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from wordbrush.conditioning.alternatives import split_outside
from wordbrush.errors import RequestError
from wordbrush.request import GenerationRequest
from wordbrush.request_fields import Lora

NUMBERS = (
    "seed", "steps", "guidance", "true_guidance", "image_guidance", "guidance_rescale", "clip_skip", "width", "height",
    "strength", "mask_grow", "mask_blur", "variation_seed", "variation_strength", "blend", "clip_guidance", "upscale",
)  # fmt: skip
NAMES = ("sampler", "schedule", "emphasis", "preset", "prompt", "negative_prompt", "mask_fill", "upscaler", "model")
BY_THEMSELVES = ("size", "replace", "style", "lora")

MOST_CELLS = 400

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)"
_RANGE = re.compile(
    rf"({_NUMBER})\s*-\s*({_NUMBER})\s*(?::\s*({_NUMBER})|\(\s*({_NUMBER})\s*\)|\[\s*(\d{{1,3}})\s*\])?"
)


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What differs along one side of a grid: a name of `NUMBERS`, `NAMES` or `BY_THEMSELVES`, and its values."""

    name: str
    values: tuple[Any, ...]

    @classmethod
    def parse(cls, text: str) -> Axis:
        """Reads "guidance=1,4,8". Raises `RequestError`."""
        name, equals, listed = text.partition("=")
        name = name.strip().replace("-", "_")
        known = [one for one in NUMBERS + NAMES if one in GenerationRequest.model_fields] + list(BY_THEMSELVES)
        if not equals or name not in known:
            raise RequestError(f"the axis {text!r} is not NAME=VALUE,VALUE,… with a name of {', '.join(known)}")
        try:
            parts = [part.strip() for part in next(csv.reader([listed], skipinitialspace=True, strict=True), [])]
        except csv.Error as error:
            raise RequestError(f"the axis {text!r} cannot be read: {error}") from error
        if not any(parts):
            raise RequestError(f"the axis {text!r} has no values")
        values = tuple(value for part in parts for value in (_numbers(name, part) if name in NUMBERS else (part,)))
        return cls(name=name, values=values)

    def label(self, value: Any) -> str:
        """The value as a side of the grid shows it."""
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        return shown if self.name in ("replace", "prompt") else f"{self.name.replace('_', ' ')} {shown}"

    def put(self, request: GenerationRequest, value: Any) -> GenerationRequest:
        """The request with one of the values. Raises `RequestError` when it does not fit."""
        fields = {name: getattr(request, name) for name in request.model_fields_set}
        if self.name == "size":
            match = re.fullmatch(r"(\d{1,5})\s*[x×X]\s*(\d{1,5})", value)
            if match is None:
                raise RequestError(f"size={value!r} on an axis is not WIDTHxHEIGHT, such as 128x128")
            fields.update(width=int(match[1]), height=int(match[2]))
        elif self.name == "replace":
            fields.update(self._replaced(request, value))
        elif self.name == "style":
            fields["styles"] = (*request.styles, *([] if value.lower() in ("", "none") else [value]))
        elif self.name == "lora":
            fields["loras"] = (*request.loras, *([] if value.lower() in ("", "none") else [Lora.parse(value)]))
        else:
            fields[self.name] = value
        return GenerationRequest(**fields)

    def _replaced(self, request: GenerationRequest, value: str) -> dict[str, str]:
        first = self.values[0]
        prompt, negative = str(request.prompt), request.negative_prompt
        if first not in prompt and first not in negative:
            raise RequestError(f"the axis replace={first},… does not fit: {first!r} is not in the prompt {prompt!r}")
        return {"prompt": prompt.replace(first, value), "negative_prompt": negative.replace(first, value)}


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Requests on the squares of a grid.

    Attributes:
        columns, rows: what stands at the sides.
        requests: a row of them for every row.
        title: what they have in common; empty where there is nothing to say.
    """

    columns: tuple[str, ...]
    rows: tuple[str, ...]
    requests: tuple[tuple[GenerationRequest, ...], ...]
    title: str = ""


def plotted(request: GenerationRequest, x: Axis, y: Axis | None = None, z: Axis | None = None) -> list[Grid]:
    """A grid for every value of `z`. All pictures have the request's seed, unless an axis is one of seeds.

    Args:
        request: of one picture, with a seed.

    Raises:
        RequestError: two axes have one name, there are more than 400 pictures, or a value does not fit.
    """
    axes = [axis for axis in (x, y, z) if axis is not None]
    _one_picture(request)
    if len({axis.name for axis in axes}) < len(axes):
        raise RequestError(f"two axes are of {', '.join(axis.name for axis in axes)}; let each be of another field")
    cells = 1
    for axis in axes:
        cells *= len(axis.values)
    if cells > MOST_CELLS:
        raise RequestError(f"the plot has {cells} pictures; at most {MOST_CELLS} fit on one")
    return [_plane(request if z is None else z.put(request, value), x, y, z, value) for value in _values(z)]


def matrix(request: GenerationRequest) -> Grid:
    """The A1111 web UI's prompt matrix: "a fox|pixel art|at night" with every choice of what follows the first bar.

    Raises:
        RequestError: there is no bar, or more than 400 choices.
    """
    _one_picture(request)
    first, *others = (part.strip() for part in split_outside(str(request.prompt)))
    if not others:
        raise RequestError(f"the prompt matrix {request.prompt!r} has no parts; write them as a fox|pixel art|at night")
    cells = 2 ** len(others)
    if cells > MOST_CELLS:
        raise RequestError(f"{len(others)} parts give {cells} pictures; at most {MOST_CELLS} fit on one sheet")
    half = (len(others) + 1) // 2
    across, down = _choices(others[:half]), _choices(others[half:])
    fields = {name: getattr(request, name) for name in request.model_fields_set}
    return Grid(
        columns=tuple(" + ".join(chosen) or "none" for chosen in across),
        rows=tuple(" + ".join(chosen) or "none" for chosen in down),
        requests=tuple(
            tuple(GenerationRequest(**{**fields, "prompt": ", ".join([first, *some, *more])}) for some in across)
            for more in down
        ),
        title=first,
    )


def _plane(request: GenerationRequest, x: Axis, y: Axis | None, z: Axis | None, value: Any) -> Grid:
    rows = [request if y is None else y.put(request, down) for down in _values(y)]
    return Grid(
        columns=tuple(x.label(across) for across in x.values),
        rows=tuple("" if y is None else y.label(down) for down in _values(y)),
        requests=tuple(tuple(x.put(row, across) for across in x.values) for row in rows),
        title="" if z is None else z.label(value),
    )


def _values(axis: Axis | None) -> Sequence[Any]:
    return (None,) if axis is None else axis.values


def _choices(parts: list[str]) -> list[tuple[str, ...]]:
    """Every choice of the parts, none first, in the order of binary numbers."""
    chosen = [some for number in range(len(parts) + 1) for some in combinations(range(len(parts)), number)]
    chosen.sort(key=lambda some: sum(2**place for place in some))
    return [tuple(parts[place] for place in some) for some in chosen]


def _one_picture(request: GenerationRequest) -> None:
    if not isinstance(request.prompt, str) or request.count != 1:
        raise RequestError(f"a plot is of one prompt and one picture, the request asks for {request.pictures} pictures")


def _numbers(name: str, text: str) -> list[int | float]:
    """One number, or those of a range, its end included where the step meets it."""
    if re.fullmatch(_NUMBER, text):
        return [_number(text)]
    match = _RANGE.fullmatch(text)
    if match is None:
        raise RequestError(f"{name}={text!r} on an axis is no number and no range, such as 5-20:5")
    low, high = _number(match[1]), _number(match[2])
    if match[5]:
        count = int(match[5])
        spread = [low + (high - low) * place / max(1, count - 1) for place in range(count)]
        whole = isinstance(low, int) and isinstance(high, int) and name != "guidance"
        return [round(value) if whole else round(value, 6) for value in spread]
    step = _number(match[3] or match[4] or ("1" if low <= high else "-1"))
    if step == 0 or (high - low) / step < 0 or (high - low) / step > MOST_CELLS:
        raise RequestError(f"{name}={text!r} on an axis does not get from {low} to {high} in steps of {step}")
    return [_tidy(low + place * step) for place in range(int((high - low) / step + 1e-9) + 1)]


def _number(text: str) -> int | float:
    return float(text) if "." in text else int(text)


def _tidy(value: int | float) -> int | float:
    return round(value, 6) if isinstance(value, float) else value
