"""Finished pictures in other file formats than the PNG they are kept in."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

from wordbrush.errors import RequestError
from wordbrush.pictures import as_rgb, unpack_picture

if TYPE_CHECKING:
    from PIL import Image

_EXIF_IFD, _USER_COMMENT = 0x8769, 0x9286
_LARGEST_EXIF = 60_000  # a JPEG's segments hold 64 KiB
_WEBPS_SIDE = 16383


def converted(png: bytes, kind: str, quality: int) -> bytes:
    """A PNG file as "JPEG" or "WEBP"; quality: 1 to 100.

    The `parameters` text goes along, to where the programs of this field look for it (EXIF's UserComment). A JPEG has
    no transparency: it becomes white.
    """
    picture = unpack_picture(png, "the picture")
    exif = _comment(picture.info.get("parameters"))
    return saved(picture, kind, quality, {} if exif is None else {"exif": exif})


def saved(picture: Image.Image, kind: str, quality: int, extra: dict[str, Any]) -> bytes:
    """A picture as a "PNG", "JPEG" or "WEBP" file. extra: keywords of Pillow's writer.

    Raises:
        RequestError: it is larger than the format can be.
    """
    if kind == "WEBP" and max(picture.size) > _WEBPS_SIDE:
        size = f"{picture.width}x{picture.height}"
        raise RequestError(f"a WebP has at most {_WEBPS_SIDE} pixels on a side, the picture is {size}; take png or jpg")
    buffer = BytesIO()
    if kind == "WEBP" and picture.has_transparency_data:
        picture.convert("RGBA").save(buffer, format=kind, quality=quality, **extra)
    else:
        picture = picture if kind == "PNG" else as_rgb(picture)
        picture.save(buffer, format=kind, **({} if kind == "PNG" else {"quality": quality}), **extra)
    return buffer.getvalue()


def _comment(text: Any) -> Image.Exif | None:
    """EXIF whose UserComment is the text, in Unicode."""
    from PIL import Image

    if not isinstance(text, str) or 2 * len(text) > _LARGEST_EXIF:
        return None
    exif = Image.Exif()
    exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = b"UNICODE\0" + text.encode("utf-16-be", "replace")
    return exif
