"""`wordbrush bench` on a tiny model, beside peers that are small scripts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from wordbrush.cli import bench as module

from .conftest import Run

PEER = """
import argparse, json
from pathlib import Path
parser = argparse.ArgumentParser()
for name in ("--model", "--task", "--dtype"):
    parser.add_argument(name)
options = parser.parse_args()
task = json.loads(Path(options.task).read_text())
assert Path(options.model, "model_index.json").exists()
assert task["noise_shape"][0] == 3 and len(task["noise"]) == 3 * 4 * 8 * 8
print("a line of chatter")
pixels = [0] * (task["height"] * task["width"] * 3)
seconds = 100.0 if options.dtype == "float32" else 50.0
print(json.dumps({"name": "sloth 1.0", "step": seconds, "single": 2 * seconds, "batch": 3 * seconds, "pixels": pixels}))
"""

TINY = ("--steps", "2", "--pictures", "3", "--repeats", "2", "--dtype", "float32")


@pytest.fixture
def peer(tmp_path: Path) -> Path:
    path = tmp_path / "sloth.py"
    path.write_text(PEER, encoding="utf-8")
    return path


def test_table_names_the_machine_and_every_figure(run: Run, tiny_v_folder: Path, peer: Path) -> None:
    result = run("bench", "-m", str(tiny_v_folder), *TINY, "--no-cold", "--peer", str(peer))
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert re.search(r"\d+ cores, \d+ threads", lines[0])
    assert "torch 2." in lines[1]
    assert "32x32, 2 steps of ddim" in lines[2]
    rows = {line[:26].strip(): re.split(r"\s{2,}", line[26:].strip()) for line in lines[4:] if line[:26].strip()}
    assert re.split(r"\s{2,}", lines[4].strip()) == ["wordbrush float32", "sloth 1.0 float32", "sloth 1.0 bfloat16"]
    assert rows["one picture, warm"][1:] == ["200.000 s", "100.000 s"]
    assert rows["3 at once, each"][1:] == ["100.000 s", "50.000 s"]
    assert rows["gain of the batch"][1:] == ["2.00 x", "2.00 x"]
    assert rows["one step"][1:] == ["100000.00 ms", "50000.00 ms"]
    assert "a step takes sloth 1.0 in float32" in result.stdout
    assert "measuring sloth, bfloat16" in result.stderr


def test_json_has_the_figures_and_what_they_are_of(run: Run, tiny_v_folder: Path, peer: Path) -> None:
    result = run("bench", "-m", str(tiny_v_folder), *TINY, "--no-cold", "--peer", str(peer), "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    ours, theirs, faster = found["figures"]
    assert (ours["name"], ours["dtype"], ours["cold"], ours["difference"]) == ("wordbrush", "float32", None, None)
    assert all(ours[name] > 0 for name in ("step", "single", "batch"))
    assert theirs["difference"][0] > theirs["difference"][1] > 0
    assert found["times_as_fast_per_step"]["sloth 1.0 bfloat16"] == pytest.approx(faster["step"] / ours["step"])
    assert found["batch_gain"] == pytest.approx(3 * ours["single"] / ours["batch"])
    assert found["request"]["steps"] == 2
    assert found["machine"]["threads"] >= 1


def test_cold_start_is_a_process_of_its_own(run: Run, tiny_v_folder: Path) -> None:
    result = run("bench", "-m", str(tiny_v_folder), *TINY, "--no-peer", "--json")
    assert result.exit_code == 0, result.stderr
    ours = json.loads(result.stdout)["figures"][0]
    assert ours["cold"] > 0.3  # no machine starts Python and torch faster


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("raise SystemExit('no such thing')", "ended with exit code 1: no such thing"),
        ("print('{}')", "printed a result without 'pixels'"),
        ("print('tired')", "did not print a JSON object"),
        ("", "did not print a JSON object"),
    ],
)
def test_a_peer_that_fails_is_a_note_beside_our_figures(
    run: Run, tiny_v_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    monkeypatch.setattr(module, "_DTYPES", ("float32",))
    path = tmp_path / "broken.py"
    path.write_text(script, encoding="utf-8")
    result = run("bench", "-m", str(tiny_v_folder), *TINY, "--no-cold", "--peer", str(path))
    assert result.exit_code == 0
    assert "one picture, warm" in result.stdout
    assert words in result.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--pictures", "0"), "pictures=0 must be at least 1"),
        (("--repeats", "0"), "repeats=0 must be at least 1"),
        (("--steps", "1"), "steps=1 is too few"),
        (("--peer", "nowhere.py"), "there is no peer script 'nowhere.py'"),
    ],
)
def test_what_cannot_be_measured_is_refused(run: Run, options: tuple[str, ...], words: str) -> None:
    result = run("bench", *options)
    assert result.exit_code == 2
    assert words in result.stderr
