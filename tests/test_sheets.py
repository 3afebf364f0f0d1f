"""Contact sheets and film strips: size, order, labels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageColor

from wordbrush.sheets import GAP, Frame, contact_sheet, film_strip, heat_overlay, labelled_grid, stacked

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def solid(colour: tuple[int, int, int], side: int = 128) -> Image.Image:
    return Image.new("RGB", (side, side), colour)


def test_pictures_stand_in_reading_order() -> None:
    sheet = contact_sheet([solid(RED), solid(GREEN), solid(BLUE)], ["one", "two", "three"])
    assert sheet.width == 2 * (128 + GAP) + GAP
    row = sheet.height // 2
    assert sheet.getpixel((GAP + 64, GAP + 64)) == RED
    assert sheet.getpixel((2 * GAP + 128 + 64, GAP + 64)) == GREEN
    assert sheet.getpixel((GAP + 64, row + GAP + 64)) == BLUE


def test_labels_are_drawn_and_stay_below_their_picture() -> None:
    plain, long = (contact_sheet([solid(RED)], [label]) for label in ("", "supercalifragilistic " * 20))
    assert plain.size == long.size
    assert plain.tobytes() != long.tobytes()
    band = (0, GAP + 128, long.width - GAP, long.height)
    assert long.crop(band).getextrema() != plain.crop(band).getextrema()
    assert long.crop((long.width - GAP, 0, long.width, long.height)).getextrema() == ((255, 255),) * 3


def test_small_pictures_are_enlarged_by_whole_factors() -> None:
    assert contact_sheet([solid(RED, 32)], ["x"]).width == 128 + 2 * GAP


def test_labels_and_pictures_must_match() -> None:
    with pytest.raises(ValueError, match="2 pictures with 1 labels"):
        contact_sheet([solid(RED)] * 2, ["x"])
    with pytest.raises(ValueError, match="0 pictures"):
        contact_sheet([], [])


def test_film_strip_shows_noise_above_and_prediction_below() -> None:
    frames = [
        Frame(label="timestep 999", noisy=solid(RED), clean=solid(GREEN)),
        Frame(label="end", noisy=solid(BLUE), clean=None),
    ]
    strip = film_strip(frames)
    left = strip.width - 2 * (128 + GAP)
    assert strip.getpixel((left + 64, strip.height // 4 + 20)) == RED
    assert strip.getpixel((left + 64, strip.height - GAP - 64)) == GREEN
    assert strip.getpixel((left + 128 + GAP + 64, strip.height // 4 + 20)) == BLUE
    assert strip.getpixel((left + 128 + GAP + 64, strip.height - GAP - 64)) == (255, 255, 255)


def test_a_labelled_grid_has_its_pictures_where_its_sides_say() -> None:
    colours = [["red", "green", "blue"], ["white", "black", "yellow"]]
    pictures = [[Image.new("RGB", (128, 128), colour) for colour in row] for row in colours]
    pictures[1][0] = Image.new("RGB", (140, 130), "white")
    sheet = labelled_grid(pictures, ["one", "two", "a label too long for a column"], ["up", "down"], "title")
    cells = [[sheet.getpixel((sheet.width - (3 - x) * 148 + 70, sheet.height - (2 - y) * 138 + 65)) for x in range(3)]
             for y in range(2)]  # fmt: skip
    assert cells == [[ImageColor.getrgb(colour) for colour in row] for row in colours]
    assert np.asarray(sheet.crop((0, 0, sheet.width - 3 * 148, sheet.height)).convert("L")).min() < 128, "row labels"
    double = stacked([sheet, sheet])
    assert double.size == (sheet.width, 2 * sheet.height)
    with pytest.raises(ValueError, match="do not fill 1 rows of 2"):
        labelled_grid([[pictures[0][0]]], ["a", "b"], ["c"])


def test_a_map_over_a_picture_goes_from_dark_to_light() -> None:
    heat = np.linspace(0.2, 0.9, 12, dtype=np.float32).reshape(3, 4)
    grey = Image.new("RGB", (4, 3), (128, 128, 128))
    light = np.asarray(heat_overlay(grey, heat).convert("L")).ravel().astype(int)
    assert (np.diff(light) > 0).all()
    flat = heat_overlay(grey, np.full((3, 4), 0.5, dtype=np.float32))
    assert len(np.unique(np.asarray(flat).reshape(-1, 3), axis=0)) == 1
