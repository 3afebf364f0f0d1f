"""What a picture file says of itself: the web UI's text, understood as the web UI's own parser does."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from wordbrush.infotext import split_infotext
from wordbrush.pictures import unpack_picture
from wordbrush.serving.bodies import file_from

if TYPE_CHECKING:
    from PIL import Image

    from wordbrush.serving.settings import Settings

_USER_COMMENT, _EXIF_FOLDER = 0x9286, 0x8769

_SIZE = re.compile(r"(\d+)x(\d+)")

# What a key means that is not there.
_SILENT = {
    "Clip skip": "1", "Hires resize-1": 0, "Hires resize-2": 0, "Schedule type": "Automatic",
    "Masked content": "original", "Masked area padding": 32, "Inpaint area": "Whole picture", "VAE Encoder": "Full",
    "VAE Decoder": "Full", "RNG": "CPU", "Emphasis": "Original",
}  # fmt: skip


def told_by(given: str, settings: Settings) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """(the web UI's text, or "", the file's other texts, the text understood) of a picture as base64.

    Raises `RequestError` as `bodies.picture_from`.
    """
    picture = unpack_picture(file_from(given, settings, "image"), "image")
    items: dict[str, Any] = {
        key: value for key, value in picture.info.items() if isinstance(key, str) and isinstance(value, str)
    }
    info = items.pop("parameters", None) or _user_comment(picture) or ""
    return info, items, understood(info)


def understood(info: str) -> dict[str, Any]:
    """The pairs of a text as the web UI gives them: values are texts, and a size is two of them."""
    if not info:
        return {}
    prompt, negative, pairs = split_infotext(info)
    found: dict[str, Any] = {"Prompt": prompt, "Negative prompt": negative}
    for key, value in pairs.items():
        size = _SIZE.fullmatch(value)
        if size is None:
            found[key] = value
        else:
            found[f"{key}-1"], found[f"{key}-2"] = size[1], size[2]
    return {**_SILENT, **found}


def _user_comment(picture: Image.Image) -> str | None:
    """The text in the EXIF of JPEG and WebP files, or a GIF's comment."""
    told = picture.getexif().get_ifd(_EXIF_FOLDER).get(_USER_COMMENT)
    if isinstance(told, bytes):
        code, text = told[:8], told[8:]
        encoding = "utf-16-be" if code == b"UNICODE\0" else "utf-8"
        return text.decode(encoding, errors="replace").strip("\0")
    comment = picture.info.get("comment")
    return comment.decode("utf-8", errors="replace") if isinstance(comment, bytes) else None
