"""What the loop works on, and the way back."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from wordbrush.editing.frame import Frame, fitted, padded, working_size


def noise(width: int, height: int) -> Image.Image:
    return Image.effect_noise((width, height), 80).convert("RGB")


@pytest.mark.parametrize(
    ("size", "step", "expected"), [((35, 26), 4, (36, 28)), ((64, 8), 8, (64, 8)), ((3, 1), 4, (8, 8))]
)
def test_the_working_size_holds_the_picture(size: tuple[int, int], step: int, expected: tuple[int, int]) -> None:
    assert working_size(size, step) == expected


def test_a_whole_picture_comes_back_bit_for_bit() -> None:
    picture = noise(35, 26)
    frame = Frame.whole(picture.size, (36, 28))
    worked = frame.worked(picture)
    assert worked.size == (36, 28)
    assert np.array_equal(np.asarray(worked)[:26, 35], np.asarray(picture)[:, 34]), "the edge is repeated"
    assert frame.restored(worked).tobytes() == picture.tobytes()


@pytest.mark.parametrize(("region", "scaled"), [((0, 0, 20, 10), (64, 32)), ((5, 5, 15, 45), (16, 64))])
def test_a_region_is_enlarged_by_one_factor(region: tuple[int, int, int, int], scaled: tuple[int, int]) -> None:
    frame = Frame.enlarged(region, (64, 64))
    assert frame.scaled == scaled
    picture = Image.new("RGB", (50, 50), "red")
    assert frame.worked(picture).size == (64, 64)
    assert frame.restored(frame.worked(picture)).size == (region[2] - region[0], region[3] - region[1])


def test_edges_are_repeated_on_every_side() -> None:
    picture = Image.fromarray(np.array([[1, 2], [3, 4]], dtype=np.uint8))
    assert np.asarray(padded(picture, (1, 0, 2, 1))).tolist() == [[1, 1, 2, 2, 2], [3, 3, 4, 4, 4], [3, 3, 4, 4, 4]]


def test_another_size_cuts_and_does_not_squash() -> None:
    picture = Image.new("RGB", (60, 20), "black")
    picture.paste("white", (20, 0, 40, 20))  # a square
    assert np.asarray(fitted(picture, (20, 20))).min() == 255
    assert fitted(picture, picture.size) is picture
