"""The mask of a request, as 8-bit grey at the size of its picture: white may change, black is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from wordbrush.errors import RequestError
from wordbrush.inputs import InputPicture, Mask, MaskBox
from wordbrush.pictures import alpha_of, as_grey

if TYPE_CHECKING:
    from PIL import Image


def drawn_mask(mask: Mask, picture: Image.Image) -> Image.Image:
    """The mask as it was given, at the size of the picture.

    picture: of any mode, which decides a mask from its transparency: what is transparent may change.

    Raises:
        RequestError: the mask has another size, the box reaches beyond the picture, or nothing is transparent.
    """
    from PIL import Image, ImageChops

    width, height = picture.size
    if isinstance(mask, MaskBox):
        if mask.x + mask.width > width or mask.y + mask.height > height:
            raise RequestError(f"the mask's box {mask} reaches beyond the picture, which is {width}x{height}")
        drawn = Image.new("L", picture.size, 0)
        drawn.paste(255, (mask.x, mask.y, mask.x + mask.width, mask.y + mask.height))
        return drawn
    if isinstance(mask, InputPicture):
        grey = as_grey(mask.load())
        if grey.size != picture.size:
            sizes = f"{grey.width}x{grey.height} and the picture is {width}x{height}"
            raise RequestError(f"the mask is {sizes}; give a mask of the picture's size")
        return grey
    alpha = alpha_of(picture)
    if alpha is None:
        raise RequestError(
            f"mask='alpha' takes the mask from the picture's transparency, and a picture of mode {picture.mode} has "
            "none; give the mask as a picture or a box"
        )
    return ImageChops.invert(alpha)


def grown(mask: Image.Image, pixels: int) -> Image.Image:
    """The white of a mask made wider on every side, corners square; fewer than 0 pixels make it narrower.

    It does not draw back from the picture's own edge.
    """

    if pixels == 0:
        return mask
    window, sign = 2 * abs(pixels) + 1, 1.0 if pixels > 0 else -1.0
    grey = sign * _tensor(mask)
    for kernel in ((window, 1), (1, window)):  # the maximum over a square is one over rows, then over columns
        grey = F.max_pool2d(grey, kernel, stride=1, padding=(kernel[0] // 2, kernel[1] // 2))
    return _picture((sign * grey).to(torch.uint8))


def feathered(mask: Image.Image, radius: float) -> Image.Image:
    """A mask whose edge is blurred by a Gaussian of this standard deviation, in pixels."""
    from PIL import ImageFilter

    return mask if radius == 0 else mask.filter(ImageFilter.GaussianBlur(radius))


def masked_region(mask: Image.Image, padding: int, aspect: tuple[int, int]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of all that may change and `padding` pixels around, of the aspect as far as may be.

    aspect: (width, height), in any unit.

    Raises:
        RequestError: nothing may change.
    """
    bounds = mask.getbbox()
    if bounds is None:
        raise RequestError("the mask keeps the whole picture, so there is no masked part; give one with some white")
    left, top = max(bounds[0] - padding, 0), max(bounds[1] - padding, 0)
    right, bottom = min(bounds[2] + padding, mask.width), min(bounds[3] + padding, mask.height)
    wide, high = right - left, bottom - top
    wanted = max(wide, -(-high * aspect[0] // aspect[1])), max(high, -(-wide * aspect[1] // aspect[0]))
    left, right = _widened(left, right, wanted[0], mask.width)
    top, bottom = _widened(top, bottom, wanted[1], mask.height)
    return left, top, right, bottom


def _widened(start: int, stop: int, wanted: int, limit: int) -> tuple[int, int]:
    """The range made as long as wanted, evenly on both sides where the limits let it."""
    length = min(wanted, limit)
    start = min(max(start - (length - (stop - start)) // 2, 0), limit - length)
    return start, start + length


def _tensor(mask: Image.Image) -> torch.Tensor:
    """(1, 1, H, W) in 0...255."""
    import numpy as np

    return torch.from_numpy(np.asarray(mask).copy())[None, None].float()


def _picture(grey: torch.Tensor) -> Image.Image:
    from PIL import Image

    return Image.fromarray(grey[0, 0].numpy())
