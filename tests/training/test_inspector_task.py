"""Training the inspector: which cells are asked what, its loss by hand, and augmentation that keeps the truth."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from wordbrush.data.pixels import to_images
from wordbrush.data.scenes import box, held_out, object_types, render, sample_scene
from wordbrush.networks.inspector import Answers, Features
from wordbrush.training.recipe import Optimiser, Recipe, read_recipe
from wordbrush.training.tasks.inspector import (
    OWN,
    InspectorTask,
    assign,
    compressed,
    moved,
    natural_colour,
    repainted,
    shrunk,
    vocabulary,
    weathered,
)  # fmt: skip

ROWS = range(4)

RECIPES = Path(__file__).parents[2] / "recipes"
KINDS = {kind.noun: kind for kind in object_types()}


def tiny_recipe() -> Recipe:
    network = {"widths": [32, 32, 32], "depths": [0, 0, 0], "neck": 32}
    train = {"task": "inspector", "network": network}
    return Recipe(
        name="tiny", steps=10, batch=4, precision="float32", optimiser=Optimiser(warmup=0), train=train  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.fixture(scope="module")
def task() -> InspectorTask:
    recipe = tiny_recipe()
    return InspectorTask(recipe, recipe.train)  # type: ignore[arg-type]


def test_cells_at_the_middle_are_asked_and_those_near_it_are_not() -> None:
    boxes = torch.tensor([[20.0, 40.0, 60.0, 80.0]])  # middle (40, 60): cells are 8 pixels, middles 4, 12, 20, ...
    presence, cells, holders = assign(boxes, torch.tensor([1]), 2, 16)
    assert presence[0].count_nonzero() == 0
    # within 6 pixels across: 36 and 44; down: 60 alone (52 and 68 are 8 away)
    assert (presence[1] == 1).nonzero().tolist() == [[7, 4], [7, 5]]
    assert cells.tolist() == [256 + 7 * 16 + 4, 256 + 7 * 16 + 5]
    assert holders.tolist() == [0, 0]
    # within 12: across 28..52, down 52..68, but for those asked
    assert (presence[1] == -1).sum() == 4 * 3 - 2


def test_every_thing_has_a_cell_wherever_it_is() -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(200, 2, generator=generator) * 88
    boxes = torch.cat([corners, corners + 40], dim=1)
    _, _, holders = assign(boxes, torch.arange(200), 200, 16)
    assert holders.unique().tolist() == list(range(200))


def test_a_batch_is_a_function_of_the_step_and_its_labels_are_true(task: InspectorTask) -> None:
    batch, again, other = task.batch(3, ROWS), task.batch(3, ROWS), task.batch(4, ROWS)
    assert all(torch.equal(batch[key], again[key]) for key in batch)
    assert not torch.equal(batch["images"], other["images"])
    assert batch["images"].shape == (4, 3, 128, 128)
    assert batch["images"].abs().max() <= 1
    scenes = [sample_scene("train", task.recipe.seed, 3 * 4 + place) for place in range(4)]
    for place, scene in enumerate(scenes):
        own = batch["cells"] // 256 == place
        assert {task.config.kinds[number] for number in batch["kinds"][own]} == {o.kind.noun for o in scene.objects}
        assert len(batch["boxes"][own].unique(dim=0)) == len(scene.objects)
        if batch["backgrounds"][place] >= 0:
            assert task.config.backgrounds[batch["backgrounds"][place]] == scene.background
    middles = (batch["boxes"][:, :2] + batch["boxes"][:, 2:]) / 2
    cell = torch.stack([batch["cells"] % 16, batch["cells"] // 16 % 16], dim=1) * 8 + 4
    assert (middles - cell).abs().max() <= 6


def test_loss_by_hand(task: InspectorTask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pictures of 256 cells; one thing, in one cell; all answers uniform: each term is known."""
    kinds, colours, grounds = (len(vocabulary()[name]) for name in ("kinds", "colours", "backgrounds"))
    presence = torch.zeros(2, 16, 16, dtype=torch.int8)
    presence[0, 3, 5], presence[0, 3, 6] = 1, -1
    batch = {
        "images": torch.zeros(2, 3, 128, 128),
        "presence": presence,
        "cells": torch.tensor([3 * 16 + 5]),
        "kinds": torch.tensor([7]),
        "colours": torch.tensor([2]),
        "boxes": torch.tensor([[20.0, 4.0, 68.0, 52.0]]),  # 48 x 48 around the middle of its cell, (44, 28)
        "backgrounds": torch.tensor([1, -1]),
    }
    network = task.network
    monkeypatch.setattr(network, "features", lambda _: Features(torch.zeros(2, 16, 16, 32), torch.zeros(2, 32)))
    monkeypatch.setattr(network, "presence", lambda cells: torch.zeros(2, 16, 16))
    zeros = Answers(torch.zeros(1, kinds), torch.zeros(1, colours), torch.tensor([[0.5, 0.0, 0.0, -0.1]]))
    monkeypatch.setattr(network, "answers", lambda rows: zeros)
    monkeypatch.setattr(network, "background", lambda embedding: torch.zeros(2, grounds))
    loss, figures = task.loss(batch, 0)
    asked = 2 * 256 - 1
    place = (0.5 + 0.1) / 4
    expected = asked * math.log(2) + math.log(kinds) + math.log(colours) + place + 0.5 * math.log(grounds)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert figures["place"].item() == pytest.approx(place, rel=1e-5)


def test_a_batch_without_any_label_has_a_finite_loss(task: InspectorTask) -> None:
    batch = task.batch(0, ROWS) | {"backgrounds": torch.full((4,), -1)}
    batch["colours"] = torch.full_like(batch["colours"], -1)
    loss, figures = task.loss(batch, 0)
    assert torch.isfinite(loss)
    assert figures["colour"].item() == figures["ground"].item() == 0


def test_the_loss_falls(task: InspectorTask) -> None:
    """A few steps on one batch: everything is connected to the loss, with the right sign."""
    batch = task.batch(0, ROWS)
    optimiser = torch.optim.AdamW(task.network.parameters(), lr=3e-3)
    losses = []
    for step in range(12):
        loss, _ = task.loss(batch, step)
        optimiser.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in task.network.parameters())
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_shrinking_moves_the_boxes_with_the_picture() -> None:
    """A white square on black: the box that comes back still bounds what is bright."""
    images, boxes = torch.full((16, 3, 128, 128), -1.0), torch.tensor([[24.0, 48.0, 88.0, 96.0]]).repeat(16, 1)
    images[:, :, 48:96, 24:88] = 1.0
    shown, moved_boxes = shrunk(images, boxes, torch.arange(16), torch.Generator().manual_seed(0))
    assert (moved_boxes - boxes).abs().max() > 2  # some did move
    assert ((moved_boxes - boxes).abs().amax(dim=1) < 1e-3).any()  # and some did not
    for picture, (left, top, right, bottom) in zip(shown, moved_boxes.tolist(), strict=True):
        rows, columns = (picture[0] > 0).nonzero(as_tuple=True)
        seen = [columns.min().item(), rows.min().item(), columns.max().item() + 1, rows.max().item() + 1]
        assert np.abs(np.array(seen) - [left, top, right, bottom]).max() <= 1.0


def test_nothing_leaves_the_frame() -> None:
    images, whole = torch.zeros(64, 3, 128, 128), torch.tensor([[0.0, 0.0, 128.0, 128.0]]).repeat(64, 1)
    _, boxes = shrunk(images, whole, torch.arange(64), torch.Generator().manual_seed(1))
    assert boxes.min() > -1e-3
    assert boxes.max() < 128 + 1e-3


def test_weather_stays_near_the_picture() -> None:
    images = to_images(np.stack([render(sample_scene("train", 0, index)) for index in range(8)]))
    again = weathered(images, torch.Generator().manual_seed(0))
    difference = (again - images).abs().mean(dim=(1, 2, 3))
    assert difference.min() > 0
    assert difference.max() < 0.2
    assert again.abs().max() <= 1


def test_moved_things_stay_in_the_frame() -> None:
    for index in range(30):
        scene = sample_scene("train", 0, index)
        for item in moved(scene, random.Random(index)).objects:
            left, top, right, bottom = box(item)
            assert min(left, top) >= 0
            assert max(right, bottom) <= 128


def test_repainting_shows_held_out_colours_and_changes_nothing_else() -> None:
    seen = set()
    for index in range(400):
        scene = sample_scene("train", 0, index)
        again = repainted(scene, random.Random(index))
        places = [[(o.kind, o.x, o.y, o.size) for o in either.objects] for either in (scene, again)]
        assert places[0] == places[1]
        for before, after in zip(scene.objects, again.objects, strict=True):
            assert after.colour == before.colour or after.kind.colourable
            assert len({o.colour for o in again.objects if o.kind == after.kind}) == 1  # things of one name stay alike
            seen.add((after.kind.noun, after.colour))
        assert again.style == scene.style or again.style is None
    assert any(colour and held_out(noun, f"colour:{colour}") for noun, colour in seen)


def test_compression_keeps_the_shape() -> None:
    picture = render(sample_scene("train", 0, 0))
    again = compressed(picture, 50)
    assert again.shape == picture.shape
    assert 0 < np.abs(again.astype(int) - picture).mean() < 10


def test_natural_colours_are_those_a_person_would_name() -> None:
    assert natural_colour(KINDS["rose"]) == "red"
    assert natural_colour(KINDS["star"]) == "yellow"
    assert natural_colour(KINDS["tractor"]) == "green"
    assert natural_colour(KINDS["gem"]) is None
    assert natural_colour(KINDS["dog"]) is None
    assert OWN in vocabulary()["colours"]


def test_the_recipe_builds_a_network_small_enough_to_ship(tmp_path: Path) -> None:
    recipe = read_recipe(RECIPES / "inspector.yaml")
    assert isinstance(recipe, Recipe)
    built = InspectorTask(recipe, recipe.train)  # type: ignore[arg-type]
    built.export(tmp_path, {"inspector": built.network.state_dict()})
    assert (tmp_path / "inspector" / "model.safetensors").stat().st_size < 5_000_000
