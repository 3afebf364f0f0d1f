"""`wordbrush train --check`: what is wrong is named, estimates are near what a run takes, and nothing is written."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from wordbrush.cli.app import make_app
from wordbrush.formats.open import embedded_folder
from wordbrush.training.check import check
from wordbrush.training.estimate import Peak, memory_of, short
from wordbrush.training.loop import Trainer
from wordbrush.training.recipe import Recipe, read_recipe
from wordbrush.training.run import build_task, train

MODEL = embedded_folder()
NETWORK = {
    "latent_channels": 4, "block_out_channels": [16, 32], "layers_per_block": 1, "norm_num_groups": 1,
    "mid_block_add_attention": False, "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip
RECIPE: dict[str, Any] = {
    "name": "tiny", "seed": 5, "steps": 40, "batch": 8, "trackers": [],
    "train": {"task": "vae", "crop": 32, "network": NETWORK},
}  # fmt: skip


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    place = tmp_path / "pictures"
    place.mkdir()
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number:02d}.png")
        (place / f"{number:02d}.txt").write_text("a picture" if number % 2 else "")
    return place


def written(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE | changes))
    return path


def folder_data(pictures: Path, **more: Any) -> dict[str, Any]:
    return {"task": "vae", "network": NETWORK, "data": {"kind": "folder", "path": str(pictures), "size": 32, **more}}


def test_a_good_recipe_passes_and_leaves_nothing(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, train=folder_data(pictures))
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    report = check(path)
    assert report.problems == []
    assert report.data["train.data"].pictures == report.data["train.data"].examples == 12
    assert report.data["train.data"].uncaptioned == 6
    assert report.epochs == pytest.approx(40 / 2)  # 12 pictures are two steps of 8
    assert report.parameters["vae"][0] > 10_000
    assert sorted(tmp_path.rglob("*")) == before


def test_memory_is_what_a_real_step_holds(tmp_path: Path) -> None:
    """Weights, gradients, optimiser and averages to the byte; a step's peak, from 1 and 2 rows, within a tenth."""
    recipe = read_recipe(written(tmp_path, optimiser={"kind": "muon"}, precision="float32"))
    assert isinstance(recipe, Recipe)
    task = build_task(recipe, tmp_path)
    trainer = Trainer(short(recipe, 0), task, tmp_path / "run", log=lambda _: None)
    memory = memory_of(trainer, step=1)
    batch = task.batch(0, range(8))
    with Peak() as peak:
        loss, _ = task.loss(batch, 1)
        loss.backward()
    held = peak.highest + sum(value.nbytes for value in batch.values())
    assert 0.9 * held < memory.step + memory.gradients < 1.1 * held + memory.gradients  # not all are there at the peak
    own = list(task.modules["vae"].parameters())
    assert memory.weights == memory.gradients == sum(4 * p.numel() for p in own)
    assert sum(p.grad.nbytes for p in own if p.grad is not None) == memory.gradients
    for parameter in own:
        parameter.grad = None
    list(trainer.run())
    states = [*trainer.optimiser.adamw.state.values()]
    states += [*trainer.optimiser.muon.state.values()] if trainer.optimiser.muon is not None else []
    held = sum(v.nbytes for state in states for v in state.values() if isinstance(v, torch.Tensor) and v.ndim)
    assert memory.optimiser == held
    assert memory.averages == memory.weights
    assert memory.available is not None
    assert memory.total < memory.available


def test_peak_counts_what_is_held_at_once() -> None:
    layer = nn.Linear(100, 100, bias=False)
    x = torch.ones(50, 100)
    with Peak() as peak:
        y = layer(x)  # 20,000 bytes
        z = y.view(-1)  # a view
        z += 1  # in place
        del y, z
        torch.ones(1000)  # 4,000 bytes, after the first were given back
    assert peak.highest == 20_000
    assert peak.held == 0


@pytest.mark.slow
def test_time_is_near_a_real_run(tmp_path: Path) -> None:
    """Within a factor of two on a quiet machine."""
    path = written(tmp_path, steps=60)
    report = check(path)
    assert report.time is not None
    recipe = read_recipe(path)
    assert isinstance(recipe, Recipe)
    trainer = Trainer(recipe, build_task(recipe, tmp_path), tmp_path / "run", log=lambda _: None)
    started = time.monotonic()
    list(trainer.run())
    assert 0.5 < report.time.total / (time.monotonic() - started) < 2


def test_bad_pictures_are_named_or_passed_over(tmp_path: Path, pictures: Path) -> None:
    (pictures / "03.png").write_bytes((pictures / "03.png").read_bytes()[:400])
    path = written(tmp_path, train=folder_data(pictures))
    report = check(path)
    assert len(report.problems) == 1, report.problems
    assert "train.data: 1 pictures cannot be used: " in report.problems[0]
    assert "03.png" in report.problems[0]
    assert report.time is None  # it is not tried out
    passed = check(path, skip_bad=True)
    assert passed.problems == []
    assert any("will be passed over" in note for note in passed.notes)


def test_everything_wrong_is_listed_with_exit_code_2(tmp_path: Path, pictures: Path) -> None:
    runner = CliRunner()
    path = written(tmp_path, sede=1, train=folder_data(pictures, sise=3))
    result = runner.invoke(make_app(), ["train", str(path), "--check", "--json"])
    assert result.exit_code == 2
    content = json.loads(result.stdout)
    assert content["ok"] is False
    assert content["problems"] == [
        "train.data.sise is not a key that is known; did you mean size?",
        "sede is not a key that is known; did you mean seed?",
    ]
    path = written(tmp_path, train=folder_data(tmp_path / "gone"))
    result = runner.invoke(make_app(), ["train", str(path), "--check"])
    assert result.exit_code == 2
    assert "train.data: " in result.stderr
    assert "gone" in result.stderr


@pytest.mark.parametrize(
    ("trained", "said"),
    [
        ({"task": "vae", "crop": 33, "network": NETWORK}, "crop=33 is not a multiple of 2"),
        ({"task": "vae", "network": {"layers": 1}}, "unknown settings"),
        ({"task": "vae", "network": NETWORK, "decoder_of": "nowhere"}, "nowhere/config.json does not exist"),
    ],
)
def test_networks_and_sizes_that_do_not_fit(tmp_path: Path, trained: dict[str, Any], said: str) -> None:
    report = check(written(tmp_path, train=trained))
    assert len(report.problems) == 1
    assert said in report.problems[0]


def test_sizes_that_the_autoencoder_cannot_divide(tmp_path: Path, pictures: Path) -> None:
    data = {"kind": "folder", "path": str(pictures), "size": 31}
    report = check(written(tmp_path, train=folder_data(pictures) | {"data": data}))
    assert len(report.problems) == 1
    assert "31" in report.problems[0]
    assert "multiple of 2" in report.problems[0]


def test_more_memory_than_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wordbrush.training.estimate.available", lambda device: 1_000_000)
    report = check(written(tmp_path))
    assert "this device has 1 MB; try a smaller batch" in report.problems[0]
    assert report.time is None


def test_assembling_names_what_is_not_there(tmp_path: Path) -> None:
    path, empty, clip, words = (tmp_path / name for name in ("recipe.yaml", "empty", "clip", "words"))
    for folder, files in (
        (empty, ()),
        (clip, ("config.json", "model.safetensors")),
        (words, ("vocab.json", "merges.txt", "words.json")),
    ):
        folder.mkdir()
        for name in files:
            (folder / name).touch()
    built = {"task": "assemble", "denoiser": "a", "vae": "b", "clip": str(clip), "tokenizer": str(words)}
    path.write_text(yaml.safe_dump({"name": "a", "build": built}))
    problems = check(path).problems
    assert [problem.split(":")[0] for problem in problems] == ["build.denoiser", "build.vae"]
    built |= {"denoiser": str(empty), "vae": str(empty)}
    path.write_text(yaml.safe_dump({"name": "a", "build": built}))
    first, second = check(path).problems
    assert first.startswith(f"build.denoiser: {empty} has no unet/config.json, unet/*.safetensors, text_encoder/")
    assert second == f"build.vae: {empty} has no config.json, *.safetensors; run the recipe that makes it first"


def test_a_fault_of_held_out_pictures_is_said_once(tmp_path: Path, pictures: Path) -> None:
    (pictures / "03.txt").unlink()
    seen, held_out = {"kind": "scenes", "size": 32}, {"kind": "folder", "path": str(pictures), "size": 32}
    trained = DIFFUSION | {"conditioning": {"kind": "none"}, "data": seen, "validation": held_out}
    problems = check(written(tmp_path, validate_every=1, train=trained), pictures=3).problems
    assert len(problems) == 1, problems
    assert problems[0].startswith("train.validation: 1 pictures cannot be used")


def test_trackers_that_are_not_there(tmp_path: Path) -> None:
    for name in ("tensorbord", "wandb"):  # misspelt, and not installed
        problems = check(written(tmp_path, trackers=[name])).problems
        assert len(problems) == 1, problems
        assert name in problems[0]
    assert check(written(tmp_path, trackers=["tensorboard"])).problems == []


def test_what_several_processes_refuse_is_said(tmp_path: Path) -> None:
    report = check(written(tmp_path, parallel="fsdp2", optimiser={"kind": "muon"}))
    assert report.problems == []  # one alone does it
    assert any("several processes refuse this recipe: optimiser.kind: muon" in note for note in report.notes)
    assert check(written(tmp_path, parallel="fsdp2")).notes == []


def test_what_a_task_cannot_do_is_said_by_check_and_run(tmp_path: Path) -> None:
    path = written(tmp_path, steps=1, validate_every=2, sample_every=3)
    said = [
        "nothing is validated every 2 steps, since the task vae has none",
        "no samples are painted every 3 steps, since the task vae has none",
    ]
    assert check(path).notes == said
    lines: list[str] = []
    train(path, tmp_path / "run", log=lines.append)
    assert [line for line in lines if line.startswith("note: ")] == [f"note: {note}" for note in said]


TEXT = {"kind": "text", "text_encoder": str(MODEL / "text_encoder"), "tokenizer": str(MODEL / "tokenizer")}
UNET = {
    "block_out_channels": [8, 16], "layers_per_block": 1, "attention_head_dim": 4, "norm_num_groups": 2,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
}  # fmt: skip
DIFFUSION = {
    "task": "diffusion", "network": UNET, "scheduler": {"_class_name": "DDIMScheduler"}, "conditioning": TEXT
}  # fmt: skip
EMBEDDING = {"kind": "embedding", "clip": str(MODEL / "clip"), "tokenizer": str(MODEL / "tokenizer")}


@pytest.mark.parametrize(
    ("trained", "wanted"),
    [
        (DIFFUSION, True),
        (DIFFUSION | {"conditioning": EMBEDDING}, True),
        (DIFFUSION | {"conditioning": EMBEDDING | {"of": "image"}}, False),
        (DIFFUSION | {"conditioning": {"kind": "none"}}, False),
        ({"task": "lora", "adapter": {"rank": 1}}, True),
        ({"task": "inversion", "placeholder": "zorb"}, False),
    ],
)
def test_pictures_without_captions_where_these_are_learnt(
    trained: dict[str, Any], wanted: bool, tmp_path: Path, pictures: Path
) -> None:
    """A trigger is the caption of those that have none."""
    data = {"kind": "folder", "path": str(pictures), "size": 32, "text": "none"}
    path = written(tmp_path, batch=2, train=trained | {"data": data})
    problems = check(path, pictures=3).problems
    assert len(problems) == wanted
    assert all("train.data: no picture has a caption" in problem for problem in problems)
    path = written(tmp_path, batch=2, train=trained | {"data": data | {"captions": {"trigger": "zorb"}}})
    assert check(path, pictures=3).problems == []


def test_the_report_reads_well_and_needs_no_output(tmp_path: Path) -> None:
    result = CliRunner().invoke(make_app(), ["train", str(written(tmp_path)), "--check"])
    assert result.exit_code == 0, result.output
    assert "tiny: 40 steps of 8" in result.stdout
    assert "memory on cpu: about" in result.stdout
    assert "pictures a second" in result.stdout
    assert "nothing is wrong with it" in result.stdout
    without = CliRunner().invoke(make_app(), ["train", str(written(tmp_path))])
    assert without.exit_code != 0
