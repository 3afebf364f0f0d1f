"""The file of a picture that was made larger: what the small one said of itself, and what was done."""

from __future__ import annotations

import json
from io import BytesIO
from typing import TYPE_CHECKING, Any

from wordbrush.errors import RequestError
from wordbrush.infotext import upscaler_label
from wordbrush.metadata import CHUNK
from wordbrush.request import GenerationRequest
from wordbrush.runtime.policy import DTYPES

if TYPE_CHECKING:
    from PIL import Image

_PARAMETERS = "parameters"


def upscaled_png(picture: Image.Image, large: Image.Image, scale: float, upscaler: str) -> bytes:
    """The PNG file of `large`, which is `picture` made larger.

    A request inside becomes the one that paints the large picture at once. One that was made larger before stays as it
    was, for a request has but one `upscale`. The web UI's text says what was done in the web UI's words; other texts,
    EXIF, the colour profile and the resolution stay.
    """
    from PIL.PngImagePlugin import PngInfo

    texts = {key: value for key, value in picture.info.items() if isinstance(key, str) and isinstance(value, str)}
    if _PARAMETERS in texts:
        done = {"Postprocess upscale by": f"{scale:g}", "Postprocess upscaler": upscaler_label(upscaler)}
        texts[_PARAMETERS] += "".join(f", {key}: {_quoted(value)}" for key, value in done.items())
    record = _record(texts.get(CHUNK))
    request = None if record is None else _request(record)
    if record is not None and request is not None and request.upscale is None:
        changed = request.model_copy(update={"upscale": scale, "upscaler": upscaler})
        texts[CHUNK] = json.dumps({**record, "request": changed.to_dict()}, ensure_ascii=True)
    info = PngInfo()
    for key, value in texts.items():
        if key.isascii() and 0 < len(key) < 80:  # what the format has room for
            info.add_itxt(key, value) if not value.isascii() else info.add_text(key, value)
    kept: dict[str, Any] = {}
    if picture.mode not in ("CMYK", "LAB") and picture.info.get("icc_profile"):
        kept["icc_profile"] = picture.info["icc_profile"]
    if picture.info.get("dpi"):
        kept["dpi"] = picture.info["dpi"]
    exif = picture.getexif()
    if exif:
        kept["exif"] = exif
    buffer = BytesIO()
    large.save(buffer, format="PNG", pnginfo=info, **kept)
    return buffer.getvalue()


def painted_dtype(picture: Image.Image) -> str | None:
    """The number format that a picture says it was painted in, so that it is enlarged in the same."""
    record = _record(picture.info.get(CHUNK))
    dtype = None if record is None else record.get("dtype")
    return dtype if isinstance(dtype, str) and dtype in DTYPES else None


def _record(text: object) -> dict[str, Any] | None:
    try:
        record = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _request(record: dict[str, Any]) -> GenerationRequest | None:
    try:
        return GenerationRequest.from_dict(record["request"])
    except (KeyError, TypeError, RequestError):  # of another version, say: it stays as it is
        return None


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if any(mark in value for mark in ',:\n"') else value
