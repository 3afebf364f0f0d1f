"""How much one job may ask for: pictures, steps, and pixels at the largest that a picture gets on the way."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from wordbrush.errors import RequestError
from wordbrush.inputs import InputPicture
from wordbrush.request import GenerationRequest
from wordbrush.serving.work import AnyWork, Explain, Generate, Upscale

if TYPE_CHECKING:
    from wordbrush.serving.server import Server

Size = tuple[float, float]

LONGEST = 100_000
"""Most characters of all texts of a request together; to read them takes time."""

_NO_TEXTS = ("image", "images", "mask", "latents")

# Where a model's files do not say at what size it paints by itself.
_USUAL = (1024, 1024)


def check(server: Server, work: AnyWork) -> None:
    """Refuses what is larger than the settings allow.

    work: its pictures are in the store, and its names are the catalogue's.

    Raises:
        RequestError: it is.
    """
    if isinstance(work, Upscale):
        _check_upscale(server, work)
    elif isinstance(work, Generate | Explain):
        _check_request(server, work.request)
        if isinstance(work, Explain) and work.request.pictures != 1:
            raise RequestError(f"one picture is explained at a time, not {work.request.pictures}; leave count out")


def check_words(work: AnyWork) -> None:
    """Refuses more text than anybody writes, before any of it is read. Raises `RequestError`."""
    length = _letters(work)
    if length > LONGEST:
        raise RequestError(f"the texts of the request have {length} characters; at most {LONGEST} are taken")


def _letters(value: Any) -> int:
    """Characters of all texts in a value, names too; pictures and noise have limits of their own."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, BaseModel):
        return sum(_letters(getattr(value, name)) for name in type(value).model_fields if name not in _NO_TEXTS)
    return sum(map(_letters, value)) if isinstance(value, list | tuple) else 0


def _check_upscale(server: Server, work: Upscale) -> None:
    _at_most("images", len(work.images), server.settings.max_pictures, "pictures in one job")
    for name in ("width", "height"):
        _at_most(name, getattr(work, name), server.settings.max_side)
    for image in work.images:
        width, height = _size_of(server, image)
        factors = [factor for factor in (work.scale, _ratio(work.width, width), _ratio(work.height, height)) if factor]
        factor = max(factors, default=4.0)
        _check_pixels(server, (width * factor, height * factor), "the enlarged picture")


def _ratio(wanted: int | None, side: float) -> float | None:
    return None if wanted is None else wanted / side


def _check_request(server: Server, request: GenerationRequest) -> None:
    settings, hires = server.settings, request.hires
    _at_most("count", request.pictures, settings.max_pictures, "pictures in one job")
    _at_most("steps", request.steps, settings.max_steps)
    _at_most("hires.steps", hires.steps if hires else None, settings.max_steps)
    _at_most("timesteps", len(request.timesteps or ()), settings.max_steps, "steps")
    for name in ("width", "height"):
        _at_most(name, getattr(request, name), settings.max_side)
    later = (request.upscale or 1.0) * (hires.scale if hires else 1.0)
    what = "the picture" if later == 1 else "the enlarged picture"
    for width, height in _sizes(server, request):
        _check_pixels(server, (width * later, height * later), what)


def _sizes(server: Server, request: GenerationRequest) -> list[Size]:
    """What the loop paints, and the picture that it stands in."""
    whole: Size | None = None
    if request.image is not None:
        left, top, right, bottom = request.extend or (0, 0, 0, 0)
        width, height = _size_of(server, request.image)
        whole = width + left + right, height + top + bottom
    own = whole or server.catalogue.own_size(request.model) or _USUAL
    return [(request.width or own[0], request.height or own[1]), *([whole] if whole and request.only_masked else [])]


def _check_pixels(server: Server, size: Size, what: str) -> None:
    width, height = (math.ceil(side) for side in size)
    settings = server.settings
    if max(width, height) > settings.max_side or width * height > settings.max_pixels:
        raise RequestError(
            f"{what} would be {width}×{height}; this server paints at most {settings.max_side} on a side and "
            f"{settings.max_pixels} pixels"
        )


def _size_of(server: Server, picture: InputPicture) -> Size:
    """(width, height) of a stored picture, read from its header."""
    from PIL import Image

    sha256 = picture.sha256 or ""
    path = server.store.inputs.path(sha256) or server.store.pictures.path(sha256)
    if path is None:
        raise RequestError(f"there is no picture with sha256 {sha256[:64]!r}; send it again")
    with Image.open(path) as image:
        return image.size


def _at_most(name: str, value: int | None, most: int, what: str = "") -> None:
    if value is not None and value > most:
        raise RequestError(f"{name}={value} is more than this server does: at most {most}{what and ' ' + what}")
