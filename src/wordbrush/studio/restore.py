"""A dropped picture's settings: what its text chunks say, without what could name a file of this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any

from wordbrush.errors import RequestError
from wordbrush.metadata import CHUNK, metadata_of
from wordbrush.request import GenerationRequest
from wordbrush.serving.bodies import file_from
from wordbrush.studio.form import OF_IMAGE

if TYPE_CHECKING:
    from wordbrush.serving.settings import Settings

# Pictures and noise that a record speaks of. They are not in the file, and text in their place would name a path.
_PICTURES = ("image", "mask", "latents")


@dataclass(frozen=True)
class Restored:
    """What a picture says of itself.

    Attributes:
        began_from: SHA-256 of the pixels of the picture that it began from, if it says one.
        unknown: settings of another program that have no meaning here.
    """

    request: GenerationRequest
    began_from: str | None = None
    unknown: Mapping[str, str] = field(default_factory=dict)


def restored(data: bytes, settings: Settings, name: str = "the picture") -> Restored:
    """The settings inside a PNG file's bytes; its pixels are not decoded.

    Raises:
        RequestError: it is no picture, larger than is allowed, damaged, or carries no settings.
    """
    from PIL import Image

    data = file_from(data, settings, name)
    try:
        with Image.open(BytesIO(data), formats=["PNG", "JPEG", "WEBP"]) as picture:
            info = dict(picture.info)
    except (OSError, ValueError, SyntaxError) as error:
        raise RequestError(f"{name} cannot be read, it is damaged or no PNG") from error
    texts, began_from = without_files({str(key): value for key, value in info.items() if isinstance(value, str)})
    found = metadata_of(texts, name)
    return Restored(request=found.request, began_from=began_from, unknown=found.ignored or {})


def without_files(texts: Mapping[str, str]) -> tuple[dict[str, str], str | None]:
    """A picture's texts with our record freed of pictures, which anyone could have written there as paths.

    Returns them and the hash of the picture that it began from.
    """
    kept = dict(texts)
    record = _record(kept.get(CHUNK))
    if record is None:
        return kept, None
    request = dict(record["request"])
    image = request.get("image")
    sha256 = image.get("sha256") if isinstance(image, Mapping) else None
    began_from = sha256 if isinstance(sha256, str) and len(sha256) == 64 else None
    if any(request.get(name) is not None for name in _PICTURES):
        for name in (*_PICTURES, *OF_IMAGE):
            request.pop(name, None)
    kept[CHUNK] = json.dumps({**record, "request": request})
    return kept, began_from


def _record(text: str | None) -> dict[str, Any] | None:
    """Our record, if it reads as one; a damaged one is left for `metadata_of` to complain of."""
    try:
        record = json.loads(text) if text is not None else None
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("request"), dict) else None
