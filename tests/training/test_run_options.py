"""`wordbrush train`'s options beside the recipe: an average of another length, compiled networks, a terminal's bar."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.training.support import Numbers, recipe

from wordbrush.errors import RequestError
from wordbrush.training.ema import Snapshots
from wordbrush.training.progress import Curve, _Bar
from wordbrush.training.run import RunOptions, run_recipe

WEIGHTS = "net.safetensors"


@pytest.fixture(autouse=True)
def _numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe's task is one of plain numbers."""
    monkeypatch.setattr("wordbrush.training.run.build_task", lambda of, *_, **__: Numbers(of))


def test_a_finished_run_is_exported_with_another_average(tmp_path: Path) -> None:
    of = recipe(ema_lengths=(0.05, 0.1), ema_snapshots=6)
    run_recipe(of, tmp_path, log=lambda _: None)
    plain = load_file(tmp_path / WEIGHTS)
    lines: list[str] = []
    run_recipe(of, tmp_path, RunOptions(ema_length=0.2), log=lines.append)
    assert lines == ["resumed at step 12 of 12"]
    longer = load_file(tmp_path / WEIGHTS)
    averaged = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["averaged"]
    wanted = Snapshots(tmp_path / "ema").average(0.2, averaged)["net"]
    key = "last.weight"
    assert torch.equal(longer[key], wanted[key])
    assert not torch.equal(longer[key], plain[key])


def test_an_average_that_was_not_kept_is_refused(tmp_path: Path) -> None:
    run_recipe(recipe(), tmp_path, log=lambda _: None)
    with pytest.raises(RequestError, match="keeps no power-function averages"):
        run_recipe(recipe(), tmp_path, RunOptions(ema_length=0.1), log=lambda _: None)


def test_the_bar_says_how_fast_how_good_and_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    bar = _Bar(recipe(), first=4)
    bar.say({"loss": 0.125, "wait": 0.011})
    bar.move(6, 31.26)
    bar.close()
    shown = terminal.getvalue()
    for words in ("tiny", "6/12", "31.3 pictures/s", "loss 0.1250", "waiting for data 1.1%", "left"):
        assert words in shown


def test_half_a_row_of_a_curve_is_dropped_and_columns_stay_in_place(tmp_path: Path) -> None:
    path = tmp_path / "curve.csv"
    curve = Curve(path, upto=0)
    curve.add({"step": 50, "loss": 0.5, "norm": 2.0})
    curve.add({"step": 100, "norm": 3.0, "loss": 0.25})
    with path.open("a") as file:
        file.write("150,0.1")  # as by a kill
    Curve(path, upto=150).add({"step": 150, "loss": 0.2, "norm": 4.0, "new": 1.0})
    assert path.read_text() == "step,loss,norm\n50,0.5,2.0\n100,0.25,3.0\n150,0.2,4.0\n"
