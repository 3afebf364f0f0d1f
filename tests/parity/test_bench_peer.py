"""The bench's diffusers peer does the same work: it ends at our picture."""

from __future__ import annotations

from pathlib import Path

import pytest

import wordbrush
from wordbrush.evaluation.speed import Task, measure

PEER = Path(__file__).parents[2] / "benchmarks" / "diffusers_peer.py"


@pytest.mark.slow
def test_diffusers_paints_our_picture(tiny_pipe: wordbrush.Pipeline) -> None:
    said: list[str] = []
    task = Task(pictures=2, repeats=2, cold=False, steps=3, guidance=4.0)
    result = measure(tiny_pipe, task, {PEER: ("float32",)}, said.append)
    assert result.problems == ()
    ours, theirs = result.figures
    assert theirs.name.startswith("diffusers ")
    assert theirs.difference is not None
    print(f"apart: max {theirs.difference[0]}, mean {theirs.difference[1]:.4f} of 255")
    assert theirs.difference[0] <= 1
    assert min(theirs.step, theirs.single, theirs.batch) > 0
    assert said == ["wordbrush, warm", "diffusers_peer, float32"]
    assert result.as_json()["times_as_fast_per_step"] == {
        f"{theirs.name} float32": pytest.approx(theirs.step / ours.step)
    }
