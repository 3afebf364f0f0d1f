"""A run that goes on with a changed recipe, and what is refused before hours are spent on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError
from tests.training.support import Numbers, recipe
from torch import nn

from wordbrush.errors import ModelFileError, RequestError, WorkFailed
from wordbrush.training.checkpoint import _changed, identity, read_checkpoint
from wordbrush.training.optimiser import OptimiserPair
from wordbrush.training.progress import Curve
from wordbrush.training.recipe import Optimiser, Recipe, read_recipe
from wordbrush.training.run import RunOptions, run_recipe

DIFFUSION: dict[str, Any] = {
    "task": "diffusion",
    "data": {"kind": "scenes", "scene": "single", "size": 16},
    "network": {"block_out_channels": [8, 16], "layers_per_block": 1},
    "scheduler": {"_class_name": "DDIMScheduler"},
}


def test_a_key_that_the_checkpoint_did_not_know_is_no_change_unless_it_is_given() -> None:
    of = recipe(train=DIFFUSION)
    before = identity(of)
    del before["train"]["objective"]["times"]["mean"]  # which times.kind: uniform does not take
    del before["train"]["data"]["captions"]["drop"]
    assert _changed(of, before) == []
    dropping = recipe(train=DIFFUSION | {"data": DIFFUSION["data"] | {"captions": {"drop": 0.5}}})
    assert _changed(dropping, before) == ["train.data"]
    watched = recipe(train=DIFFUSION | {"defaults": {"steps": 3}, "validation_rows": 8}, validate_every=0)
    assert _changed(watched, before) == []  # neither decides any weight
    network = {"block_out_channels": [8, 16]}  # what a run no longer says is a change
    assert _changed(recipe(train=DIFFUSION | {"network": network}), before) == ["train.network"]


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_run_goes_on_with_the_recipes_decay_and_betas(kind: str) -> None:
    layer = nn.Linear(4, 4)
    pair = OptimiserPair({"net": layer}, Optimiser.model_validate({"kind": kind}))
    layer.weight.grad, layer.bias.grad = torch.ones(4, 4), torch.ones(4)
    pair.step()
    other = Optimiser.model_validate({"kind": kind, "betas": (0.8, 0.95), "weight_decay": 0.1})
    changed = OptimiserPair({"net": layer}, other)
    changed.load_state_dict(pair.state_dict())
    assert {tuple(group["betas"]) for group in changed.adamw.param_groups} == {(0.8, 0.95)}
    assert changed.adamw.param_groups[0]["weight_decay"] == 0.1
    assert changed.muon is None or changed.muon.param_groups[0]["weight_decay"] == 0.1
    kept = changed.adamw.state[layer.bias]["exp_avg"]
    assert torch.equal(kept, pair.adamw.state[layer.bias]["exp_avg"])


OURS: dict[str, Any] = {"modules": {}, "averaged": {}, "optimiser": {}, "step": 6, "seconds": 1.5}


@pytest.mark.parametrize(
    "foreign",
    [{"state_dict": {}, "epoch": 3}, [1], torch.zeros(2), OURS, OURS | {"recipe": 3}, OURS | {"recipe": {}}],
    ids=["keys", "list", "tensor", "no recipe", "number", "no task"],
)
def test_a_checkpoint_of_another_program_is_refused(tmp_path: Path, foreign: Any) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save(foreign, path)
    with pytest.raises(ModelFileError, match=r"checkpoint\.pt is not a checkpoint of Wordbrush; use another folder"):
        read_checkpoint(path, recipe())


def test_a_run_is_not_made_shorter_than_it_is(tmp_path: Path) -> None:
    of = recipe()
    torch.save(OURS | {"recipe": identity(of)}, tmp_path / "checkpoint.pt")
    assert read_checkpoint(tmp_path / "checkpoint.pt", recipe(steps=6))["step"] == 6
    with pytest.raises(RequestError, match="is of step 6, which the recipe's steps: 5 never reach; give it 6 or more"):
        run_recipe(recipe(steps=5), tmp_path, log=lambda _: None)


@pytest.mark.parametrize(("length", "message"), [(0.1, "keeps no power-function averages"), (0.5, "does not exist")])
def test_a_length_that_cannot_be_had_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: float, message: str
) -> None:
    monkeypatch.setattr("wordbrush.training.run.build_task", lambda of, *_, **__: Numbers(of))
    of = recipe(ema_lengths=(0.1,)) if length == 0.5 else recipe()
    with pytest.raises(RequestError, match=message):
        run_recipe(of, tmp_path, RunOptions(ema_length=length), log=lambda _: None)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_stopped_before_the_first_snapshot_the_plain_average_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wordbrush.training.run.build_task", lambda of, *_, **__: Numbers(of))
    lines: list[str] = []
    run_recipe(recipe(ema_lengths=(0.1,)), tmp_path, RunOptions(ema_length=0.1, until=0.0), log=lines.append)
    assert lines == ["stopped at step 0, before power-function averages were kept: the plain one is exported"]
    assert (tmp_path / "net.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimiser": {"betas": [2, 0.9]}}, "betas"),
        ({"ema_snapshots": 4}, "give ema_lengths too"),
        ({"train": DIFFUSION | {"scheduler": {"beta_shedule": "linear"}}}, "did you mean beta_schedule"),
    ],
)
def test_what_would_do_nothing_or_fail_later_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Recipe.model_validate(recipe().model_dump(exclude_unset=True) | changes)


def test_a_curve_on_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    curve = Curve(tmp_path / "curve.csv", upto=0)
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(WorkFailed, match=r"curve\.csv could not be written \(No space left"):
        curve.add({"step": 1})


RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_whole_of_a_recipe_reads_as_the_recipe(path: Path, tmp_path: Path) -> None:
    """Every key at its default is no contradiction of another: programs write recipes whole."""
    read = read_recipe(path)
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(read.model_dump(mode="json")))
    assert read_recipe(again) == read
