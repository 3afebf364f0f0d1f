"""Axes of plots, and prompt matrices: which requests stand where."""

from __future__ import annotations

import pytest

from wordbrush.editing.plots import Axis, matrix, plotted
from wordbrush.errors import RequestError
from wordbrush.request import GenerationRequest

FOX = GenerationRequest(prompt="a fox, red", seed=7)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("guidance=1,4, 8", (1, 4, 8)),
        ("guidance=1.5", (1.5,)),
        ("steps=1-4", (1, 2, 3, 4)),
        ("steps=1-10:3", (1, 4, 7, 10)),
        ("steps=1-10 (+4), 20", (1, 5, 9, 20)),
        ("guidance=1-2:0.5", (1, 1.5, 2.0)),
        ("guidance=0-1 [5]", (0, 0.25, 0.5, 0.75, 1)),
        ("steps=1-20 [3]", (1, 10, 20)),
        ("steps=4-2", (4, 3, 2)),
        ("mask-grow=-2-2:2", (-2, 0, 2)),
        ("sampler=euler, dpmpp_2m", ("euler", "dpmpp_2m")),
        ('replace=fox,cat,"a, b"', ("fox", "cat", "a, b")),
    ],
)
def test_values_of_an_axis(text: str, values: tuple[object, ...]) -> None:
    assert Axis.parse(text).values == values


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("guidance", "NAME=VALUE"),
        ("colour=1", "a name of seed, steps"),
        ("steps=", "has no values"),
        ("steps=few", "no number and no range"),
        ("steps=1-9:-1", "does not get from 1 to 9"),
        ("steps=1-9:0", "does not get"),
        ("steps=1-9999", "does not get"),
        ('replace="a', "cannot be read"),
    ],
)
def test_axes_that_cannot_be_read(text: str, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        Axis.parse(text)


def test_a_plane_of_requests() -> None:
    (grid,) = plotted(FOX, Axis.parse("guidance=1,4"), Axis.parse("size=64x32,32x64"))
    assert grid.columns == ("guidance 1", "guidance 4")
    assert grid.rows == ("size 64x32", "size 32x64")
    found = [[(one.guidance, one.width, one.height, one.seed) for one in row] for row in grid.requests]
    assert found == [[(1, 64, 32, 7), (4, 64, 32, 7)], [(1, 32, 64, 7), (4, 32, 64, 7)]]


def test_a_grid_for_every_value_of_z() -> None:
    grids = plotted(FOX, Axis.parse("replace=fox,cat"), None, Axis.parse("sampler=euler,ddim"))
    assert [grid.title for grid in grids] == ["sampler euler", "sampler ddim"]
    assert [one.prompt for one in grids[1].requests[0]] == ["a fox, red", "a cat, red"]
    assert {one.sampler for one in grids[1].requests[0]} == {"ddim"}
    assert grids[0].columns == ("fox", "cat")
    assert grids[0].rows == ("",)


def test_styles_and_loras_are_added() -> None:
    request = GenerationRequest(prompt="a fox", seed=1, styles="sketch")
    assert [Axis.parse("style=none,sepia").put(request, value).styles for value in ("none", "sepia")] == [
        ("sketch",), ("sketch", "sepia"),
    ]  # fmt: skip
    found = Axis.parse("lora=none,fur:0.5").put(request, "fur:0.5").loras[0]
    assert (found.name, found.unet) == ("fur", 0.5)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        ("guidance=1", "guidance=2", "another field"),
        ("seed=1-30", "steps=1-30", "900 pictures"),
        ("replace=dog,cat", None, "'dog' is not in the prompt"),
        ("steps=0", None, "steps=0"),
        ("size=big", None, "WIDTHxHEIGHT"),
    ],
)
def test_plots_that_cannot_be(x: str, y: str | None, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        plotted(FOX, Axis.parse(x), None if y is None else Axis.parse(y))


def test_a_plot_is_of_one_picture() -> None:
    with pytest.raises(RequestError, match="asks for 2 pictures"):
        plotted(GenerationRequest(prompt="a fox", count=2, seed=1), Axis.parse("steps=1"))


def test_a_matrix_has_every_choice() -> None:
    grid = matrix(GenerationRequest(prompt="a fox|b|c|{d|e}", seed=1))
    assert grid.columns == ("none", "b", "c", "b + c")  # the labels' font has no dash
    assert grid.rows == ("none", "{d|e}")
    assert [one.prompt for one in grid.requests[1]] == [
        "a fox, {d|e}", "a fox, b, {d|e}", "a fox, c, {d|e}", "a fox, b, c, {d|e}",
    ]  # fmt: skip
    with pytest.raises(RequestError, match="has no parts"):
        matrix(GenerationRequest(prompt="a [fox|cat]", seed=1))
