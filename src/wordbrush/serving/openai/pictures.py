"""Pictures in the formats that clients want, and masks as OpenAI draws them."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from wordbrush.pictures import alpha_of, as_rgb, unpack_picture
from wordbrush.serving.converting import converted, saved
from wordbrush.serving.openai.errors import bad
from wordbrush.serving.openai.parameters import Output
from wordbrush.serving.openai.sizes import Size

if TYPE_CHECKING:
    from PIL import Image


def encoded(png: bytes, output: Output) -> bytes:
    """A finished picture's file in the wanted format; a PNG stays the file it is."""
    return png if output.format == "png" else converted(png, output.format.upper(), max(1, output.quality))


def preview(data: bytes, size: Size | None, output: Output) -> tuple[bytes, Size]:
    """A preview of the running loop in the format of the picture that it will be, and its size.

    size: of that picture; None leaves the preview's own.
    """
    from PIL import Image

    picture = as_rgb(unpack_picture(data, "the preview"))
    if size not in (None, picture.size):
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    return saved(picture, output.format.upper(), max(1, output.quality), {}), picture.size


def text_of(data: bytes) -> str:
    """Base64, as JSON carries it."""
    return base64.b64encode(data).decode("ascii")


def mask_from(alpha_mask: Image.Image, picture: Image.Image) -> Image.Image:
    """A mask of ours (white may change) from one of OpenAI's (transparent may change).

    What is half transparent may change by half.

    Raises:
        Refused: it has another size than the picture, or no transparency, or none that lets anything change.
    """
    from PIL import ImageChops

    if alpha_mask.size != picture.size:
        sizes = " and the image ".join(f"{width}x{height}" for width, height in (alpha_mask.size, picture.size))
        raise bad(f"mask is {sizes}; give a mask of the image's size", "mask")
    alpha = alpha_of(alpha_mask)
    if alpha is None:
        raise bad("mask has no transparency; give a PNG that is transparent where the image may change", "mask")
    if alpha.getextrema() == (255, 255):
        raise bad("mask is opaque everywhere, so nothing may change; make it transparent where the image may", "mask")
    return ImageChops.invert(alpha)


def has_hole(picture: Image.Image) -> bool:
    """Whether a picture is wholly transparent somewhere."""
    alpha = alpha_of(picture)
    return alpha is not None and alpha.getextrema()[0] == 0


def fitted(picture: Image.Image, size: Size, *, smooth: bool = False) -> Image.Image:
    """Scaled by one factor to cover the size, what stands over cut off evenly. smooth: without ringing, for masks."""
    from PIL import Image, ImageOps

    kind = Image.Resampling.BILINEAR if smooth else Image.Resampling.LANCZOS
    return picture if picture.size == size else ImageOps.fit(picture, size, kind)
