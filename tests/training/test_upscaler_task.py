"""The upscaler's task: pairs that belong together, data as a function of the step, a folder that is read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from wordbrush.data.scenes import enlarged, render, sample_scene
from wordbrush.evaluation.upscaling import held_out_picture
from wordbrush.formats.upscalers import read_upscaler
from wordbrush.training.recipe import Recipe
from wordbrush.training.run import RunOptions, train
from wordbrush.training.tasks.recipes import UpscalerRecipe
from wordbrush.training.tasks.upscaler import UpscalerTask, pairs_of_scene, reduced

ROWS = range(6)

NETWORK = {"scale": 2, "channels": 4, "blocks": 1, "end_kernel": 3, "batch_norm": False, "skip_picture": True}


def recipe(**settings: Any) -> Recipe:
    part = {"task": "upscaler", "network": NETWORK, "crop": 16, **settings}
    return Recipe.model_validate({"name": "x", "seed": 1, "steps": 3, "batch": 6, "train": part})


def task() -> UpscalerTask:
    made = recipe()
    assert isinstance(made.train, UpscalerRecipe)
    return UpscalerTask(made, made.train)


def test_small_crops_are_the_large_ones_made_small() -> None:
    made = recipe(degraded=0.0)
    assert isinstance(made.train, UpscalerRecipe)
    for index in range(4):
        for small, large in pairs_of_scene(made, made.train, index):
            assert small.shape == (16, 16, 3)
            assert large.shape == (32, 32, 3)
            again = np.asarray(reduced(Image.fromarray(large), 2), int)
            inner = slice(3, -3)  # at a crop's edge the filter sees what lies beyond
            assert np.abs(again[inner, inner] - small[inner, inner]).max() <= 1


def test_degraded_crops_differ_and_show_the_same() -> None:
    made = recipe(degraded=1.0)
    assert isinstance(made.train, UpscalerRecipe)
    differences = [
        np.abs(np.asarray(reduced(Image.fromarray(large), 2), int) - small).mean()
        for index in range(4)
        for small, large in pairs_of_scene(made, made.train, index)
    ]
    assert 0.1 < float(np.mean(differences)) < 12


def test_a_batch_is_a_function_of_its_step() -> None:
    first, again, other = task().batch(2, ROWS), task().batch(2, ROWS), task().batch(3, ROWS)
    assert first["small"].shape == (6, 3, 16, 16)
    assert first["large"].shape == (6, 3, 32, 32)
    assert torch.equal(first["small"], again["small"])
    assert not torch.equal(first["small"], other["small"])


def test_the_loss_is_the_mean_difference() -> None:
    made, flat = task(), torch.zeros(1, 3, 8, 8)
    loss, figures = made.loss({"small": flat, "large": torch.full((1, 3, 16, 16), 0.2)}, 0)
    assert abs(loss.item() - 0.2) < 1e-6  # untrained it is bicubic interpolation: of zeros, zeros
    assert abs(figures["psnr"].item() - 20.0) < 1e-4  # 10 log10(2² / 0.2²)


def test_a_run_ends_with_a_folder_that_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(recipe().model_dump(mode="json")))
    train(path, tmp_path / "run", RunOptions(device="cpu"), log=lambda _: None)
    network = read_upscaler(tmp_path / "run" / "upscaler")
    assert network.config.scale == 2
    assert next(network.parameters()).dtype == torch.float16


def test_scenes_are_enlarged_in_every_part() -> None:
    """Twice as large and made small again, a scene is the usual one but for how edges are drawn."""
    for index in range(12):
        scene = sample_scene("train", 3, index)
        if scene.style == "sketch":
            continue  # whose lines are drawn anew
        large, scale = enlarged(scene, 2 * max(item.size for item in scene.objects), 4)
        assert (scale, large.size) == (2.0, 256)
        half = np.asarray(Image.fromarray(render(large, scale)).resize((128, 128), Image.Resampling.BOX), int)
        assert np.abs(half - render(scene)).mean() < 4, scene


def test_held_out_pictures_have_sides_that_can_be_divided() -> None:
    for scale in (2, 3, 4):
        assert all(side % scale == 0 for side in held_out_picture(5, scale).size)
