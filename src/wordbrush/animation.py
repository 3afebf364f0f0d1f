"""Moving pictures in one file, GIF, WebP or MP4, with a text inside that says how they were made."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wordbrush.errors import RequestError

if TYPE_CHECKING:
    from PIL import Image

MARK = "wordbrush-travel"
"""The key under which a file's text holds a travel."""

INSTALL = "writing and reading MP4 needs PyAV: pip install 'wordbrush[video]'"

_GIF_TICK = 10  # milliseconds; GIF counts time in hundredths of a second
_PALETTE_SIDE = 128
_GIF_LEAST = 2 * _GIF_TICK  # players show frames shorter than this at a tenth of a second


def animation_bytes(ending: str, pictures: Sequence[Image.Image], fps: float, record: dict[str, Any]) -> bytes:
    """The file.

    Args:
        ending: one of `FORMATS`.
        pictures: at least one, all RGB and of one size.
        fps: GIF can have at most 50 and rounds a frame's length to a hundredth of a second.
        record: JSON values, kept under `MARK`.
    """
    return FORMATS[ending](pictures, fps, json.dumps({MARK: record}, ensure_ascii=True))


def check_animation(path: Path, fps: float) -> str:
    """The file's ending, one of `FORMATS`, before any work is done.

    Raises:
        RequestError: there is no such format, it cannot have this speed, or what writes it is not installed.
    """
    ending = path.suffix.lower()
    if ending not in FORMATS:
        raise RequestError(f"-o {str(path)!r}: moving pictures are saved as {', '.join(FORMATS)}")
    if ending == ".gif" and round(1000 / fps / _GIF_TICK) * _GIF_TICK < _GIF_LEAST:
        raise RequestError(f"fps={fps:g} is more than the 50 that a GIF can have; use .webp or .mp4")
    if ending == ".mp4":
        _av()
    return ending


def read_record(path: Path) -> dict[str, Any]:
    """What `animation_bytes` put into a file.

    Raises:
        RequestError: the file cannot be read or has no such text.
    """
    text = _mp4_text(path) if path.suffix.lower() == ".mp4" else _picture_text(path)
    try:
        record = json.loads(text or "{}").get(MARK)
    except (ValueError, AttributeError):
        record = None
    if not isinstance(record, dict):
        raise RequestError(f"{str(path)!r} carries no travel; only files saved by wordbrush travel do")
    return record


def _gif(pictures: Sequence[Image.Image], fps: float, text: str) -> bytes:
    from PIL import Image

    # One palette for all frames, chosen on small copies: with a palette each, plain areas flicker.
    small = [picture.resize(_within(picture.size, _PALETTE_SIDE), Image.Resampling.NEAREST) for picture in pictures]
    tall = Image.new("RGB", (small[0].width, sum(picture.height for picture in small)))
    for number, picture in enumerate(small):
        tall.paste(picture, (0, number * picture.height))
    palette = tall.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    frames = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    duration = round(1000 / fps / _GIF_TICK) * _GIF_TICK
    buffer = BytesIO()
    frames[0].save(
        buffer, "GIF", save_all=True, append_images=frames[1:], duration=duration, loop=0, optimize=False,
        comment=text.encode("ascii"),
    )  # fmt: skip
    return buffer.getvalue()


def _within(size: tuple[int, int], side: int) -> tuple[int, int]:
    """The size, shrunk until no side is longer."""
    factor = min(1.0, side / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _webp(pictures: Sequence[Image.Image], fps: float, text: str) -> bytes:
    from PIL import Image

    exif = Image.Exif()
    exif[0x010E] = text  # ImageDescription
    buffer = BytesIO()
    pictures[0].save(
        buffer, "WEBP", save_all=True, append_images=list(pictures[1:]), duration=round(1000 / fps), loop=0,
        quality=90, method=4, exif=exif.tobytes(),
    )  # fmt: skip
    return buffer.getvalue()


def _mp4(pictures: Sequence[Image.Image], fps: float, text: str) -> bytes:
    av = _av()
    width, height = (side // 2 * 2 for side in pictures[0].size)  # colour is stored for every second pixel
    buffer = BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        container.metadata["comment"] = text
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "16", "threads": "1"}  # with more threads the bytes are not always the same
        for picture in pictures:
            frame = av.VideoFrame.from_image(picture.crop((0, 0, width, height)))
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return buffer.getvalue()


def _picture_text(path: Path) -> str | None:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            comment = picture.info.get("comment")
            return comment.decode("ascii", "replace") if comment else picture.getexif().get(0x010E)
    except FileNotFoundError as error:
        raise RequestError(f"there is no file {str(path)!r}") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RequestError(f"{str(path)!r} cannot be read: {error}") from error


def _mp4_text(path: Path) -> str | None:
    av = _av()
    try:
        with av.open(str(path)) as container:
            found: str | None = container.metadata.get("comment")
            return found
    except (OSError, ValueError) as error:
        raise RequestError(f"{str(path)!r} cannot be read: {error}") from error


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise RequestError(INSTALL) from error
    return av


FORMATS: dict[str, Callable[[Sequence[Image.Image], float, str], bytes]] = {
    ".gif": _gif, ".webp": _webp, ".mp4": _mp4,
}  # fmt: skip
"""Ending -> (pictures, fps, text) -> the bytes of the file."""
