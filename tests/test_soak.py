"""Painting again and again, and opening one model after another, takes no more memory than doing it once."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest

import wordbrush

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's account of memory"),
]

LARGEST_GROWTH = 8 << 20  # bytes: the tiny model's own weights are a tenth of that


def own_memory() -> int:
    """Bytes that are this process's and nobody else's."""
    gc.collect()
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1]) << 10


def test_a_hundred_pictures(tiny_v_folder: Path) -> None:
    pipe = wordbrush.load(tiny_v_folder)
    seen = []
    for number in range(120):
        pipe(["a fox", "three cats"], seed=number, steps=2, width=64, height=32 + 16 * (number % 3))
        if number in (20, 119):
            seen.append(own_memory())
    assert seen[1] - seen[0] < LARGEST_GROWTH


def test_thirty_models(tiny_v_folder: Path, tiny_sd_folder: Path) -> None:
    seen = []
    for number in range(40):
        pipe = wordbrush.load((tiny_v_folder, tiny_sd_folder)[number % 2], dtype=("float32", "auto")[number // 2 % 2])
        pipe("a fox", seed=1, steps=1)
        if number in (10, 39):
            seen.append(own_memory())
    assert seen[1] - seen[0] < LARGEST_GROWTH
