"""Picture files of every kind: opened safely, turned upright, hashed by content, read as plain colours or as grey.

Importing this module loads neither NumPy nor Pillow.
"""

from __future__ import annotations

import hashlib
import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, cast

from wordbrush.errors import RequestError

if TYPE_CHECKING:
    from PIL import Image

# Of all that Pillow can open: not those that run another program (EPS) or hold no picture of one size (icons).
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "TGA")

SIXTEEN_BITS = {"I;16", "I;16L", "I;16B", "I;16N", "I"}

_ORIENTATION, _LYING = 0x0112, (5, 6, 7, 8)  # the EXIF tag, and its values for a picture stored on its side

# What Pillow's readers raise for damaged files, beside OSError.
_DAMAGED = (
    ValueError, SyntaxError, struct.error, zlib.error, EOFError, IndexError, KeyError, TypeError, OverflowError,
    RuntimeError,
)  # fmt: skip


def open_picture(path: str | Path) -> Image.Image:
    """Reads a picture file completely, turned the way its EXIF says; of several frames, the first.

    Raises:
        RequestError: there is no such file, or it is cut off, damaged, too large or of no kind that is read here.
    """
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of EXIF that cannot be read, say
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return _opened(path, repr(str(path)))


def unpack_picture(data: bytes, name: str) -> Image.Image:
    """Like `open_picture`, of a file that is in memory; any number of threads may call it at once.

    name: how messages name the picture.
    """
    return _opened(BytesIO(data), name)


def picture_size(data: bytes, name: str) -> tuple[int, int]:
    """Width and height of a picture file's bytes once it is upright; its pixels are not read.

    Raises:
        RequestError: the bytes do not begin like a picture.
    """
    from PIL import Image

    Image.init()
    try:
        with Image.open(BytesIO(data), formats=[kind for kind in FORMATS if kind in Image.OPEN]) as picture:
            width, height = picture.size
            lying = picture.getexif().get(_ORIENTATION, 1) in _LYING and picture.format != "TIFF"  # its size is upright
            return (height, width) if lying else (width, height)
    except (OSError, Image.DecompressionBombError, *_DAMAGED) as error:
        raise RequestError(f"{name} cannot be read as a picture: {_kinds()}") from error


def _kinds() -> str:
    return "it is no whole PNG, JPEG, WebP, AVIF, GIF, TIFF or BMP file"


def _opened(source: str | Path | BytesIO, name: str) -> Image.Image:
    from PIL import Image, ImageOps, UnidentifiedImageError

    Image.init()  # all of its readers; a Pillow may have been built without some
    try:
        with Image.open(source, formats=[kind for kind in FORMATS if kind in Image.OPEN]) as picture:
            picture.load()
            return ImageOps.exif_transpose(picture)
    except FileNotFoundError as error:
        raise RequestError(f"there is no file {name}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        most = (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise RequestError(f"{name} is refused: it unpacks to more than {most} million pixels") from error
    except UnidentifiedImageError as error:
        raise RequestError(f"{name} cannot be read as a picture: {_kinds()}") from error
    except OSError as error:
        raise RequestError(f"{name} cannot be read as a picture: {error.strerror or error}") from error
    except _DAMAGED as error:
        raise RequestError(f"{name} cannot be read as a picture, it is damaged: {error}") from error


def pixel_hash(picture: Image.Image) -> str:
    """SHA-256 of what a picture shows: equal for the same picture in another file format, palette or not."""
    if picture.mode in ("P", "PA") or (picture.mode in ("RGB", "L", "1") and "transparency" in picture.info):
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    head = f"{picture.mode} {picture.width}x{picture.height} ".encode()
    profile = picture.info.get("icc_profile") if picture.mode == "CMYK" else None  # which decides its colours
    return hashlib.sha256(head + picture.tobytes() + (profile or b"")).hexdigest()


def as_rgb(picture: Image.Image, *, on_white: bool = True) -> Image.Image:
    """A picture of any mode as 8-bit RGB; one that is so already keeps its bits.

    on_white: what is transparent becomes white; else it takes the colours that lie beneath.

    Raises:
        RequestError: its numbers have no fixed white.
    """
    from PIL import Image

    if picture.mode in SIXTEEN_BITS or picture.mode == "F":
        return _eight_bits(picture).convert("RGB")
    if picture.has_transparency_data:
        rgba = _rgba(picture)
        return (Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba) if on_white else rgba).convert("RGB")
    return _by_profile(picture) if picture.mode in ("CMYK", "LAB") else picture.convert("RGB")


def as_grey(picture: Image.Image) -> Image.Image:
    """A picture of any mode as 8-bit grey; what is transparent becomes black. Raises as `as_rgb` does."""
    from PIL import Image

    if picture.mode in SIXTEEN_BITS or picture.mode == "F":
        return _eight_bits(picture)
    if picture.has_transparency_data:
        rgba = _rgba(picture)
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "black"), rgba).convert("L")
    return picture.convert("L") if picture.mode in ("L", "1") else as_rgb(picture).convert("L")


def alpha_of(picture: Image.Image) -> Image.Image | None:
    """How opaque a picture is, 8-bit grey; None for one without transparency."""
    if picture.mode in SIXTEEN_BITS or not picture.has_transparency_data:
        return None
    return _rgba(picture).getchannel("A")


def _rgba(picture: Image.Image) -> Image.Image:
    if picture.mode == "La":  # Pillow has no direct way
        picture = picture.convert("LA")
    return picture.convert("RGBA")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Grey of 16 bits, rounded to 8."""
    import numpy as np
    from PIL import Image

    if picture.mode == "F":
        raise RequestError("a picture of floating-point numbers has no fixed white; save it with 8 or 16 bits")
    values = np.asarray(picture).astype(np.int64).clip(0, 65535)
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))


def _by_profile(picture: Image.Image) -> Image.Image:
    """CMYK as RGB by the colour profile that the picture carries, or else by plain arithmetic; LAB as it is defined."""
    from PIL import ImageCms

    screen = ImageCms.createProfile("sRGB")
    if picture.mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        return cast("Image.Image", ImageCms.profileToProfile(picture, lab, screen, outputMode="RGB"))
    profile = picture.info.get("icc_profile")
    if profile:
        try:
            inks = ImageCms.ImageCmsProfile(BytesIO(profile))
            return cast("Image.Image", ImageCms.profileToProfile(picture, inks, screen, outputMode="RGB"))
        except (ImageCms.PyCMSError, OSError):  # a profile that is of no use is none
            pass
    return picture.convert("RGB")
