"""Pictures that clients send, and requests that carry them: looked at before they are decoded, and never a path.

A picture arrives as base64, as a data URL or as bytes. What leaves here are its pixels alone: no metadata, no colour
profile, no second frame, and nothing of the file that was sent is kept.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import struct
import threading
import zlib
from collections.abc import Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any

from wordbrush.errors import RequestError
from wordbrush.inputs import InputPicture, Mask, parse_mask
from wordbrush.pictures import as_rgb
from wordbrush.request import GenerationRequest
from wordbrush.serving.guard.sniff import KINDS, read_header

if TYPE_CHECKING:
    from PIL import Image

    from wordbrush.serving.server import Server
    from wordbrush.serving.settings import Settings

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,20}):")
_BOX = re.compile(r"\s*-?\d{1,9}(\s*,\s*-?\d{1,9}){1,8}\s*")

# Most numbers of a request's own starting noise: 64 MiB, more than any picture that may be painted needs.
_MOST_NOISE = 16 * 1024**2

# A picture of a few kilobytes can unpack to a quarter of a gigabyte: so many are unpacked at the same time.
_DECODING = threading.BoundedSemaphore(2)

# What Pillow's readers raise for damaged files, beside OSError.
_DAMAGED = (
    ValueError, SyntaxError, struct.error, zlib.error, EOFError, IndexError, KeyError, TypeError, OverflowError,
    RuntimeError, MemoryError,
)  # fmt: skip

_ORIENTATION = 0x0112  # the EXIF tag


def file_from(given: str | bytes, settings: Settings, name: str = "the picture") -> bytes:
    """The bytes of a picture file that a client sent, of a kind and size that may be decoded; they are not decoded.

    given: base64, a data URL, or the file itself; name: how messages call it.

    Raises:
        RequestError: it is an address or a path, no base64, no picture of a kind that is read, or too large.
    """
    data = _unpacked(given, int(settings.max_body), name) if isinstance(given, str) else bytes(given)
    if len(data) > settings.max_body:
        raise RequestError(f"{name} has {len(data)} bytes; at most {int(settings.max_body)} are taken")
    if not data:
        raise RequestError(f"{name} is empty; send {KINDS}")
    header = read_header(data)
    _check_size(header.width, header.height, settings, name)
    return data


def picture_from(given: str | bytes, settings: Settings, name: str = "the picture") -> Image.Image:
    """The pixels of a picture that a client sent: upright, the first frame, in mode 1, L, LA, I;16, RGB or RGBA.

    Raises as `file_from`, and for a damaged file.
    """
    from PIL import Image

    data = file_from(given, settings, name)
    kind = read_header(data).kind
    Image.preinit()  # PNG, JPEG and GIF; `init` adds WebP
    if kind not in Image.OPEN:
        Image.init()
    with _DECODING:
        try:
            with Image.open(BytesIO(data), formats=[kind]) as picture:
                _check_size(*picture.size, settings, name)  # what the decoder will make, whatever we read
                picture.load()
                return _plain(_upright(picture))
        except RequestError:
            raise
        except Image.DecompressionBombError as error:
            raise RequestError(f"{name} is refused: it unpacks to too many pixels; send a smaller one") from error
        except OSError as error:
            raise RequestError(f"{name} cannot be read, it is damaged or cut off: {_brief(error)}") from error
        except _DAMAGED as error:
            raise RequestError(f"{name} cannot be read, it is damaged: {_brief(error)}") from error


def input_from(given: Any, server: Server, name: str = "image") -> InputPicture:
    """A client's picture as a stored input.

    given: base64, a data URL, bytes, a PIL image, or `{"sha256": ...}` of one that was stored before.

    Raises:
        RequestError: as `picture_from`; or nothing is stored under the hash; or it is a path or an address.
    """
    from PIL import Image

    if isinstance(given, InputPicture):
        given = given.picture if given.picture is not None else given.to_json()
    if isinstance(given, Image.Image):
        return server.store.inputs.put(given)
    if isinstance(given, bytearray):
        given = bytes(given)
    if isinstance(given, str | bytes):
        return server.store.inputs.put(picture_from(given, server.settings, name))
    if isinstance(given, Mapping):
        return _stored(given, server, name)
    raise RequestError(f'{name} does not fit: give base64, a data URL, or {{"sha256": …}} of a picture sent before')


def request_from(fields: Mapping[str, Any], server: Server) -> GenerationRequest:
    """A request of a client's JSON fields, its pictures stored and known by their hashes.

    Raises:
        RequestError: a field does not fit, or a picture is a path, an address or not there.
    """
    known = {str(name): value for name, value in fields.items()}
    if known.get("image") is not None:
        known["image"] = input_from(known["image"], server, "image")
    if known.get("mask") is not None:
        known["mask"] = _mask(known["mask"], server)
    if known.get("latents") is not None:
        _check_noise(known["latents"])
    return GenerationRequest.from_dict(known)


def _mask(given: Any, server: Server) -> Mask:
    """A box and "alpha" as they are, everything else as a stored picture."""
    if isinstance(given, list | tuple) or (isinstance(given, str) and (given == "alpha" or _BOX.fullmatch(given))):
        try:
            return parse_mask(given)
        except (ValueError, OverflowError) as error:
            raise RequestError(f"mask does not fit: {error}") from error
    return input_from(given, server, "mask")


def _stored(given: Mapping[str, Any], server: Server, name: str) -> InputPicture:
    sha256 = given.get("sha256")
    if given.get("path") is not None or not set(given) <= {"path", "sha256"}:
        raise RequestError(f'{name} does not fit: give {{"sha256": …}} alone; files of the server cannot be named')
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise RequestError(f"{name} does not fit: sha256 is 64 digits of 0-9 and a-f")
    if not server.store.inputs.has(sha256):
        raise RequestError(f"{name}: there is no picture with sha256 {sha256}; send its bytes as base64 instead")
    return InputPicture(path=None, sha256=sha256)


def _check_noise(value: Any) -> None:
    """The shape decides how much is unpacked, so it is looked at first."""
    shape = value.get("shape") if isinstance(value, Mapping) else None
    if not isinstance(shape, list | tuple) or not all(type(size) is int and 0 < size < 2**31 for size in shape):
        raise RequestError('latents do not fit: give {"shape": [B, C, h, w], "float32": …}')
    if math.prod(shape) > _MOST_NOISE:
        raise RequestError(f"latents of shape {list(shape)} are too large: at most {_MOST_NOISE} numbers are taken")


def _unpacked(text: str, most: int, name: str) -> bytes:
    """The bytes of base64 or of a data URL."""
    head = text[:200].lstrip()
    scheme = _SCHEME.match(head)
    if scheme is not None:
        text = _payload(text, scheme[1].lower(), name)
    elif head.startswith(("/", "~", ".", "\\")) and not head.startswith("/9j/"):  # which is how a JPEG begins
        raise RequestError(f"{name} looks like a path; files of the server cannot be named, send the bytes as base64")
    if len(text) // 4 * 3 > most + 3 + text.count("\n"):
        raise RequestError(f"{name} is too large: at most {most} bytes are taken")
    packed = "".join(text.split()).translate({ord("-"): "+", ord("_"): "/"}).rstrip("=")
    try:
        return base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    except (ValueError, binascii.Error) as error:
        raise RequestError(f"{name} is not base64: give the file's bytes as base64 or as a data URL") from error


def _payload(text: str, scheme: str, name: str) -> str:
    """What stands behind the comma of a data URL. No other address is ever followed."""
    if scheme in ("http", "https"):
        raise RequestError(f"{name} is a web address; this server fetches nothing, send the bytes as base64 instead")
    if scheme != "data":
        raise RequestError(f"{name} is an address of the kind {scheme}:; send the bytes as base64 or as a data URL")
    head, comma, payload = text.partition(",")
    kind, *parameters = head.lstrip()[len("data:") :].lower().split(";")
    if not comma or "base64" not in [parameter.strip() for parameter in parameters]:
        raise RequestError(f"{name} is a data URL without base64; write it as data:image/png;base64,…")
    if not kind.strip().startswith("image/") and kind.strip() != "application/octet-stream":
        raise RequestError(f"{name} is a data URL of the kind {kind[:40]!r}; send {KINDS}")
    return payload


def _check_size(width: int, height: int, settings: Settings, name: str) -> None:
    if width < 1 or height < 1:
        raise RequestError(f"{name} is {width}×{height}, it holds no pixel; send {KINDS}")
    if width * height > settings.max_pixels or max(width, height) > 4 * settings.max_side:
        raise RequestError(
            f"{name} is refused: {width}×{height} is too large; at most {settings.max_pixels} pixels and "
            f"{4 * settings.max_side} on a side are taken"
        )


def _upright(picture: Image.Image) -> Image.Image:
    from PIL import Image

    ways = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }  # fmt: skip
    try:
        way = ways.get(picture.getexif().get(_ORIENTATION, 1))
    except (OSError, *_DAMAGED):  # EXIF that cannot be read turns nothing
        way = None
    return picture.transpose(way) if way is not None else picture


def _plain(picture: Image.Image) -> Image.Image:
    """The pixels alone, in one of the modes that PNG has."""
    picture.info.pop("icc_profile", None)  # a parser less; colours are taken as sRGB
    if picture.mode in ("P", "PA") or (picture.mode in ("1", "L", "RGB") and "transparency" in picture.info):
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    elif picture.mode in ("CMYK", "YCbCr", "LAB", "HSV", "RGBX", "La", "RGBa", "F"):
        picture = as_rgb(picture)
    elif picture.mode not in ("1", "L", "LA", "RGB", "RGBA", "I;16"):
        picture = picture.convert("I;16" if picture.mode.startswith("I") else "RGBA")
    plain = picture.copy()
    plain.info.clear()
    if hasattr(plain, "_exif"):
        plain._exif = None
    return plain


def _brief(error: BaseException) -> str:
    """What a decoder said, without control characters or anything of the file's length."""
    return " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())[:120]
