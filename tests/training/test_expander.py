"""The prompt expander's task: captions as rows, the loss by hand, and a folder that expands prompts."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml

from wordbrush.conditioning.expansion import Expander
from wordbrush.data.scenes import caption, sample_scene
from wordbrush.formats.gpt2_folder import read_gpt2
from wordbrush.formats.library import embedded_folder
from wordbrush.request_fields import Expansion
from wordbrush.training.recipe import Recipe, read_recipe
from wordbrush.training.run import RunOptions, build_task, train
from wordbrush.training.tasks.expander import ExpanderTask, continued_caption

ROWS = range(8)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("expander") / "expander.yaml"
    network = {"n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2}
    content = {
        "name": "expander", "seed": 1, "steps": 4, "batch": 8, "precision": "float32",
        "train": {"task": "expander", "vocabulary": 400, "vocabulary_captions": 200, "network": network},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(content))
    return path


def task_of(path: Path, folder: Path) -> ExpanderTask:
    recipe = read_recipe(path)
    assert isinstance(recipe, Recipe)
    task = build_task(recipe, folder)
    assert isinstance(task, ExpanderTask)
    return task


def test_rows_are_whole_captions(recipe: Path, tmp_path: Path) -> None:
    task = task_of(recipe, tmp_path)
    rows = task.batch(0, ROWS)["ids"]
    assert torch.equal(task_of(recipe, tmp_path).batch(0, ROWS)["ids"], rows)
    for index, row in enumerate(rows):
        ids = [int(token) for token in row if token >= 0]
        assert ids[-1] == task.tokenizer.end_id
        assert (ids[0] == task.tokenizer.end_id) == (index == 0)
        assert task.tokenizer.decode(ids) == continued_caption(index, 1)
    loss, figures = task.loss({"ids": rows}, 0)
    logits = task.network(rows[:, :-1].clamp(min=0))[0].log_softmax(2)
    wanted = rows[:, 1:]
    counted = -logits.gather(2, wanted.clamp(min=0)[..., None])[..., 0][wanted >= 0]
    torch.testing.assert_close(loss, counted.mean())
    torch.testing.assert_close(figures["perplexity"], counted.mean().exp().detach())


def test_half_of_what_follows_a_comma_comes_after_the_ground() -> None:
    moved = 0
    for index in range(3000):
        text, own = continued_caption(index, 5), caption(sample_scene("train", 5, index))
        assert sorted(text) == sorted(own)
        if text != own:
            moved += 1
            things, _, more = own.rpartition(" on ")[0].rpartition(", ")
            assert text == f"{things} on {own.rpartition(' on ')[2]}, {more}"
    assert 20 < moved < 200


def test_stopping_and_resuming_changes_nothing(recipe: Path, tmp_path: Path) -> None:
    train(recipe, tmp_path / "whole", log=lambda _: None)
    train(recipe, tmp_path / "parts", RunOptions(until=0.0), log=lambda _: None)
    train(recipe, tmp_path / "parts", log=lambda _: None)
    ids = torch.arange(9)[None]
    whole, parts = (read_gpt2(tmp_path / name / "expander") for name in ("whole", "parts"))
    assert torch.equal(whole.network(ids)[0], parts.network(ids)[0])
    assert whole.lower_case
    assert Expander(whole).addition("A fox", Expansion(tokens=3), random.Random(0))


def test_the_shipped_one_knows_captions_it_never_saw() -> None:
    """A uniform guess has the perplexity 1,600; that of held-out combinations was measured at 6.3."""
    folder = embedded_folder().with_name("scenes-expander")
    model = read_gpt2(folder)
    losses = []
    for index in range(100):
        text = caption(sample_scene("test", 9, index))
        ids = torch.tensor([[*model.tokenizer.encode(text), model.tokenizer.end_id]])
        with torch.no_grad():
            losses.append(F.cross_entropy(model.network(ids)[0][0, :-1], ids[0, 1:], reduction="none"))
    assert torch.cat(losses).mean().exp() < 8
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3e6
