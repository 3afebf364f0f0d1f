"""Real processes: killed and started again, and many that train together, DDP and FSDP2 on gloo."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.resilience import command, compare_killed, differences, finish, losses, start, write_recipe
from safetensors.torch import load_file

if not hasattr(os, "fork"):
    pytest.skip("processes are forked", allow_module_level=True)

ROOT = Path(__file__).parents[2]


def forked(what: str, folder: Path) -> tuple[Any, str]:
    """What `tests/training/forked.py` found, and what its processes said."""
    process = subprocess.run(
        [sys.executable, "-m", "tests.training.forked", what, str(folder)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout), process.stderr


def test_killed_at_any_moment_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    found, said = forked("kills", tmp_path)
    assert said == ""
    assert sum(found["kills"].values()) >= 5
    assert found["kills"]["writing"] >= 3  # in the middle of a checkpoint
    assert found["differing"] == []
    assert found["left"] == ["checkpoint.pt", "ema"]


@dataclass(frozen=True)
class Runs:
    """Runs on several numbers of processes: their folder, the exit codes, and all that they said."""

    folder: Path
    codes: dict[str, list[int]]
    said: str

    def losses(self, name: str, rank: int = 0) -> list[float]:
        return list(self.of(name, rank)["losses"].values())

    def of(self, name: str, rank: int) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / name / f"rank-{rank}.json").read_text())
        return content

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        return load_file(self.folder / name / "net.safetensors")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("together")
    return Runs(folder, *forked("together", folder))


@pytest.mark.parametrize("name", ["2", "4", "2-fsdp2", "2-accumulated", "2-accumulated-fsdp2"])
def test_the_loss_curve_does_not_depend_on_the_processes(runs: Runs, name: str) -> None:
    assert set(runs.codes[name]) == {0}
    alone = runs.losses("1")
    assert len(alone) == 12
    assert runs.losses(name) == pytest.approx(alone, rel=1e-4)
    assert runs.losses(name, rank=1) == runs.losses(name)  # the mean over all, in each
    for key, value in runs.weights("1").items():
        assert torch.allclose(runs.weights(name)[key], value, atol=2e-5), key


def test_parameters_may_take_no_part_in_some_steps(runs: Runs) -> None:
    assert runs.codes["turns"] == [0, 0, 0]
    assert runs.losses("turns-2") == pytest.approx(runs.losses("turns"), rel=1e-4)
    assert runs.losses("turns") != pytest.approx(runs.losses("1"), rel=1e-2)


@pytest.mark.parametrize("name", ["2", "4", "2-accumulated"])
def test_rows_are_shared_out_without_overlap(runs: Runs, name: str) -> None:
    seen = [runs.of(name, rank)["seen"] for rank in range(int(name[0]))]
    for step in range(12):
        rows = [row for own in seen for at, part in own if at == step for row in part]
        assert sorted(rows) == list(range(8))
    parts = {len(part) for own in seen for _, part in own}
    assert parts == {8 // int(name[0]) // (2 if "accumulated" in name else 1)}


@pytest.mark.parametrize("name", ["2-then-1", "1-then-2", "fsdp2-then-1", "1-then-fsdp2"])
def test_a_checkpoint_goes_on_with_another_number_of_processes(runs: Runs, name: str) -> None:
    assert runs.codes[name] == [0, 0, 0]
    assert list(runs.of(name, 0)["losses"]) == ["9", "10", "11", "12"]  # what the second run did
    assert runs.losses(name) == pytest.approx(runs.losses("1")[8:], rel=1e-4)
    for key, value in runs.weights("1").items():
        assert torch.allclose(runs.weights(name)[key], value, atol=2e-5), key


def test_checkpoints_are_the_same_file_however_weights_were_held(runs: Runs) -> None:
    one, sharded = (
        torch.load(runs.folder / name / "checkpoint.pt", weights_only=True) for name in ("1", "2-fsdp2")
    )
    assert one.keys() == sharded.keys()
    for key, state in one["optimiser"]["adamw"]["state"].items():
        for part, value in state.items():
            assert torch.allclose(sharded["optimiser"]["adamw"]["state"][key][part], value, atol=1e-4), part


def test_a_killed_process_ends_the_others_with_a_clear_message(runs: Runs) -> None:
    assert runs.codes["killed"] == [1, -signal.SIGKILL]
    assert "rank 0: another process of this run has ended" in runs.said
    assert "the same command goes on from there" in runs.said
    assert torch.load(runs.folder / "killed/checkpoint.pt", weights_only=True)["step"] == 4


def test_a_batch_that_does_not_fit_the_processes_is_refused_by_all(runs: Runs) -> None:
    assert runs.codes["uneven"] == [1, 1, 1]
    assert runs.said.count("cannot be shared out evenly among 3 processes with 1 micro-batches each") == 3


def children(process: int) -> list[int]:
    """The processes that a process started."""
    text = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(word) for word in text.split()]


@pytest.mark.slow
def test_torchrun_restarts_a_run_whose_process_was_killed(tmp_path: Path) -> None:
    if not Path("/proc/self/task").exists():
        pytest.skip("finds the processes in /proc")
    recipe = write_recipe(tmp_path / "recipe.yaml")
    finish(command(recipe, tmp_path / "straight", processes=2))
    process = start(command(recipe, tmp_path / "broken", processes=2, launch=["--max-restarts", "1"]))
    assert process.stderr is not None
    lines: list[str] = []
    for line in process.stderr:
        if re.search(r": step 11/", line) and not any(": step 11/" in before for before in lines):
            os.kill(children(process.pid)[-1], signal.SIGKILL)
        lines.append(line)
    assert process.wait() == 0
    said = "".join(lines)
    assert "another process of this run has ended" in said or "Signal 9 (SIGKILL)" in said
    assert "resumed at step 10 of 60" in said
    count, differ = differences(tmp_path / "straight", tmp_path / "broken")
    assert count > 500
    assert differ == []  # the same two processes: the same bits
    assert len(losses(tmp_path / "broken")) == 60


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_the_command_killed_at_random_steps_ends_with_the_same_bits(tmp_path: Path, workers: int) -> None:
    assert compare_killed(tmp_path, kills=4, workers=workers, seed=1) == []


@pytest.mark.slow
def test_torchrun_with_sharded_weights_exports_once(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", parallel="fsdp2", steps=6)
    said = finish(command(recipe, tmp_path / "run", processes=2))
    assert said.count(": step 6/6") == 1
    assert (tmp_path / "run/vae/diffusion_pytorch_model.safetensors").exists()
