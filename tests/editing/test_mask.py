"""Masks: drawn from a picture, a box or transparency; grown, feathered; the region that they mark."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from wordbrush.editing.mask import drawn_mask, feathered, grown, masked_region
from wordbrush.errors import RequestError
from wordbrush.inputs import InputPicture, MaskBox, parse_mask

PICTURE = Image.new("RGB", (12, 8))


def box(x: int, y: int, width: int, height: int) -> Image.Image:
    return drawn_mask(MaskBox(x, y, width, height), PICTURE)


def bounds(mask: Image.Image) -> tuple[int, int, int, int] | None:
    return mask.getbbox()


def test_a_box_is_white_inside() -> None:
    mask = box(2, 1, 3, 4)
    assert (mask.mode, mask.size, bounds(mask)) == ("L", (12, 8), (2, 1, 5, 5))
    assert np.asarray(mask).sum() == 255 * 3 * 4


@pytest.mark.parametrize("given", ["2,1,3,4", " 2, 1, 3, 4 ", (2, 1, 3, 4), [2, 1, 3, 4], MaskBox(2, 1, 3, 4)])
def test_a_box_is_read_in_every_form(given: object) -> None:
    assert parse_mask(given) == MaskBox(2, 1, 3, 4)


@pytest.mark.parametrize("given", ["1,2,3", (1, 2, 3), (1, 2, 3, 4.5), (0, 0, 0, 4), "-1,0,3,3", 5])
def test_what_is_no_mask_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match=r"box|give a PIL image"):
        parse_mask(given)


def test_a_box_beyond_the_picture_is_refused() -> None:
    with pytest.raises(RequestError, match=r"10,0,3,8 reaches beyond the picture, which is 12x8"):
        box(10, 0, 3, 8)


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(RequestError, match=r"mask is 8x12 and the picture is 12x8"):
        drawn_mask(InputPicture.parse(Image.new("L", (8, 12))), PICTURE)


def test_what_is_transparent_may_change() -> None:
    picture = Image.new("RGBA", (2, 1), (9, 9, 9, 255))
    picture.putpixel((1, 0), (9, 9, 9, 55))
    assert np.asarray(drawn_mask("alpha", picture)).tolist() == [[0, 200]]
    with pytest.raises(RequestError, match="mode RGB has none"):
        drawn_mask("alpha", PICTURE)


def test_a_mask_drawn_on_nothing_is_black_where_nothing_is() -> None:
    drawn = Image.new("RGBA", (12, 8), (255, 255, 255, 0))
    drawn.putpixel((3, 3), (255, 255, 255, 255))
    assert bounds(drawn_mask(InputPicture.parse(drawn), PICTURE)) == (3, 3, 4, 4)


def test_masks_grow_and_shrink() -> None:
    mask = box(4, 3, 3, 3)
    assert bounds(grown(mask, 2)) == (2, 1, 9, 8)
    assert bounds(grown(mask, -1)) == (5, 4, 6, 5)
    assert bounds(grown(mask, -2)) is None
    assert grown(mask, 0) is mask
    assert bounds(grown(box(0, 0, 4, 8), -1)) == (0, 0, 3, 8), "the picture's edge is no edge of the mask"


def test_a_feathered_edge_is_soft_and_ends() -> None:
    mask = Image.new("L", (64, 9))
    mask.paste(255, (0, 0, 32, 9))
    row = np.asarray(feathered(mask, 3.0))[4].astype(int)
    assert (np.diff(row) <= 0).all()
    assert 100 < row[31] < 150
    assert (row[:16] == 255).all()
    assert (row[-16:] == 0).all()
    assert feathered(mask, 0) is mask


@pytest.mark.parametrize(
    ("rectangle", "padding", "aspect", "region"),
    [
        ((40, 40, 50, 50), 5, (1, 1), (35, 35, 55, 55)),
        ((40, 40, 60, 50), 0, (1, 1), (40, 35, 60, 55)),  # made as high as wide
        ((0, 40, 20, 50), 4, (2, 1), (0, 36, 36, 54)),  # at the edge it is made wider on the other side
        ((0, 0, 100, 60), 32, (1, 1), (0, 0, 100, 60)),  # no room for a square
        ((90, 50, 100, 60), 0, (1, 2), (90, 40, 100, 60)),
    ],
)
def test_the_region_keeps_the_aspect_where_it_can(
    rectangle: tuple[int, int, int, int], padding: int, aspect: tuple[int, int], region: tuple[int, int, int, int]
) -> None:
    mask = Image.new("L", (100, 60))
    mask.paste(255, rectangle)
    assert masked_region(mask, padding, aspect) == region


def test_a_black_mask_has_no_region() -> None:
    with pytest.raises(RequestError, match="keeps the whole picture"):
        masked_region(PICTURE.convert("L"), 4, (1, 1))
