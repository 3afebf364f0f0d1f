"""Pictures and masks that a client sends to img2img, made what the request wants of them."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageOps

from wordbrush.errors import RequestError
from wordbrush.pictures import alpha_of, as_grey, as_rgb

SQUASH, CUT, FILL, SQUASH_LATENTS = range(4)
"""resize_mode."""

Size = tuple[int, int]


@dataclass(frozen=True)
class PlacedPicture:
    """A picture to paint over, of the size it is painted over at, and where it may change; None is everywhere."""

    picture: Image.Image
    mask: Image.Image | None


def placed(
    picture: Image.Image, mask: Image.Image | None, size: Size | None, mode: int, *, hard: bool
) -> PlacedPicture:
    """A client's picture and mask, brought to a size together; None is the picture's own.

    hard: the mask has no greys. Raises as `resized`.
    """
    if picture.mode not in ("RGB", "RGBA", "L", "LA"):
        picture = as_rgb(picture)
    grey = None if mask is None else drawn_mask(mask, picture.size, hard=hard)
    if size is None:
        return PlacedPicture(picture, grey)
    return PlacedPicture(resized(picture, size, mode), None if grey is None else resized(grey, size, mode, mask=True))


def resized(picture: Image.Image, size: Size, mode: int, *, mask: bool = False) -> Image.Image:
    """A picture at another size (width, height), in the way that `resize_mode` says.

    mask: without ringing at edges.

    Raises:
        RequestError: latents would have to be resized.
    """
    kind = Image.Resampling.BILINEAR if mask else Image.Resampling.LANCZOS
    if picture.size == size:
        return picture
    if mode == SQUASH:
        return picture.resize(size, kind)
    if mode == SQUASH_LATENTS:
        raise RequestError(
            f"resize_mode=3 resizes latents, which is not done here: the picture is {picture.width}x{picture.height} "
            f"and {size[0]}x{size[1]} is asked for; choose 0, 1 or 2"
        )
    return ImageOps.fit(picture, size, kind) if mode == CUT else _filled(picture, size, kind)


def drawn_mask(mask: Image.Image, size: Size, *, hard: bool) -> Image.Image:
    """A client's mask as 8-bit grey of the picture's size: white may change.

    What is opaque counts in a mask with transparent places, what is white in any other.

    hard: no greys.
    """
    alpha = alpha_of(mask)
    grey = alpha if alpha is not None and alpha.getextrema() != (255, 255) else as_grey(mask)
    if hard:
        grey = grey.point(lambda level: 255 if level > 128 else 0)
    return resized(grey, size, SQUASH, mask=True)


def _scaled(size: Size, factor: float) -> Size:
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _filled(picture: Image.Image, size: Size, kind: Image.Resampling) -> Image.Image:
    """Scaled to lie in the middle of the size, its outermost pixels repeated around it."""
    small = picture.resize(_scaled(picture.size, min(size[0] / picture.width, size[1] / picture.height)), kind)
    left, top = (size[0] - small.width) // 2, (size[1] - small.height) // 2
    whole = Image.new(small.mode, size)
    whole.paste(small, (left, top))
    right, bottom = left + small.width, top + small.height
    for edge, place in (
        (small.crop((0, 0, 1, small.height)), (0, top, left, bottom)),
        (small.crop((small.width - 1, 0, small.width, small.height)), (right, top, size[0], bottom)),
    ):
        _spread(whole, edge, place)
    for edge, place in (
        (whole.crop((0, top, size[0], top + 1)), (0, 0, size[0], top)),
        (whole.crop((0, bottom - 1, size[0], bottom)), (0, bottom, size[0], size[1])),
    ):
        _spread(whole, edge, place)
    return whole


def _spread(whole: Image.Image, edge: Image.Image, place: tuple[int, int, int, int]) -> None:
    width, height = place[2] - place[0], place[3] - place[1]
    if width > 0 and height > 0:
        whole.paste(edge.resize((width, height), Image.Resampling.NEAREST), place[:2])
