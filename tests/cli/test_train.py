"""`wordbrush train`: a real process, stopped and started again."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from .conftest import Run

RECIPE = {
    "name": "tiny", "seed": 5, "steps": 150, "batch": 1, "checkpoint_every": 20, "precision": "float32",
    "optimiser": {"warmup": 2},
    "train": {
        "task": "vae", "crop": 32,
        "network": {"latent_channels": 4, "block_out_channels": [16, 16], "layers_per_block": 1, "norm_num_groups": 1,
                    "mid_block_add_attention": False, "use_quant_conv": False, "use_post_quant_conv": False},
    },
}  # fmt: skip


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


def start(recipe: Path, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "wordbrush", "train", str(recipe), "--output", str(folder)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoint.pt", weights_only=True)["modules"]["vae"]


@pytest.mark.slow  # of kills alone there is a quicker one, `test_processes.py`
def test_killed_or_stopped_and_started_again_it_ends_with_the_same_bits(recipe: Path, tmp_path: Path) -> None:
    assert start(recipe, tmp_path / "straight").wait(timeout=300) == 0
    for number in (signal.SIGKILL, signal.SIGINT):
        process = start(recipe, tmp_path / "broken")
        assert process.stderr is not None
        for line in process.stderr:
            if "tiny: step" in line:
                break
        process.send_signal(number)
        process.communicate(timeout=300)
        assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130)
        assert torch.load(tmp_path / "broken/checkpoint.pt", weights_only=True)["step"] < RECIPE["steps"]
    process = start(recipe, tmp_path / "broken")
    _, log = process.communicate(timeout=300)
    assert process.returncode == 0
    assert "resumed at step" in log
    straight, broken = weights(tmp_path / "straight"), weights(tmp_path / "broken")
    assert all(torch.equal(straight[key], broken[key]) for key in straight)
    rows = (tmp_path / "broken/curve.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", *map(str, range(50, 151, 50))]


def test_time_limit_leaves_a_finished_folder(run: Run, recipe: Path, tmp_path: Path) -> None:
    result = run("train", recipe, "--output", tmp_path / "run", "--minutes", 0.001)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run/vae/config.json").exists()
    assert torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)["step"] < RECIPE["steps"]


def test_wrong_recipe_is_one_sentence_and_exit_code_2(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("name: x\nsteps: 1\nbatch: 1\ntrain: {task: vae, netwrk: {}}\n")
    result = run("train", path, "--output", tmp_path / "run")
    assert result.exit_code == 2
    assert "wrong.yaml" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
    assert run("train", tmp_path / "none.yaml", "--output", tmp_path / "run").exit_code == 2


def test_a_picture_that_cannot_be_used_is_named_with_the_remedy(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number in range(4):
        Image.new("RGB", (32, 32), "red").save(tmp_path / f"data/{number}.png")
    path = tmp_path / "data/2.png"
    path.write_bytes(path.read_bytes()[:60])
    files = {"kind": "folder", "path": str(tmp_path / "data"), "size": 32}
    network = RECIPE["train"]["network"]  # type: ignore[index]
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE | {"train": {"task": "vae", "data": files, "network": network}}))
    result = run("train", recipe, "--output", tmp_path / "run")
    assert result.exit_code == 2
    assert "2.png' cannot be read" in result.stderr
    assert "or pass over such with --skip-bad" in result.stderr
    result = run("train", recipe, "--output", tmp_path / "run", "--skip-bad", "--minutes", 0.001)
    assert result.exit_code == 0, result.output
