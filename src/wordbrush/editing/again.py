"""The pictures that a request was made with, found again by their content."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from wordbrush.errors import RequestError
from wordbrush.inputs import InputPicture
from wordbrush.pictures import open_picture, pixel_hash
from wordbrush.request import GenerationRequest

INPUTS = ("image", "mask")


def with_inputs(request: GenerationRequest, given: Mapping[str, str | None], beside: Path) -> GenerationRequest:
    """The request with its input pictures at hand, each with the pixels that it had when the request was made.

    Args:
        given: where they are now, by the field's name; None or left out: where the request says.
        beside: a folder to look in as well, by the whole path and by the file's name.

    Raises:
        RequestError: an input is missing, has other pixels, or is given and not asked for; all of them in one sentence.
    """
    found: dict[str, InputPicture] = {}
    problems: list[str] = []
    for name in INPUTS:
        asked, path = getattr(request, name), given.get(name)
        if not isinstance(asked, InputPicture):
            if path is not None:
                why = f"has no {name}" if asked is None else f"was made with {name}={asked}, which is no file"
                problems.append(f"--{name} {path!r} has no use: the request {why}")
            continue
        try:
            found[name] = _given(name, asked, path) if path is not None else _remembered(name, asked, beside)
        except RequestError as error:
            problems.append(str(error))
    if problems:
        raise RequestError("; ".join(problems))
    return request.model_copy(update=found)


def _given(name: str, asked: InputPicture, path: str) -> InputPicture:
    picture = open_picture(path)
    sha256 = pixel_hash(picture)
    if asked.sha256 is not None and sha256 != asked.sha256:
        raise RequestError(f"the {name} differs: {_hashes(path, sha256, asked.sha256)}")
    return InputPicture(path=path, sha256=sha256, picture=picture)


def _remembered(name: str, asked: InputPicture, beside: Path) -> InputPicture:
    """The first of the places where it may be that holds its pixels."""
    if asked.picture is not None:
        return asked
    if asked.path is None:
        raise RequestError(f"the request's {name} was never a file (its pixels hash to {asked.sha256}); give --{name}")
    places = dict.fromkeys((Path(asked.path), beside / asked.path, beside / Path(asked.path).name))
    there = [place for place in places if place.is_file()]
    if not there:
        raise RequestError(f"the request's {name} was {asked.path!r}, which is not here; say where it is with --{name}")
    differences = []
    for place in there:
        try:
            return _given(name, asked, str(place))
        except RequestError as error:
            differences.append(error)
    raise differences[0]


def _hashes(path: str, now: str, then: str) -> str:
    return f"the pixels of {path!r} hash to {now[:12]}…, the request was made with {then[:12]}…"
