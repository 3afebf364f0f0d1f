"""High-resolution fix and enlarging on every family: two loops, the right size, each picture as if alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import wordbrush

pytest.importorskip("diffusers")


@pytest.mark.parametrize("name", ["inpaint", "sdxl", "flux-dev"])
def test_two_loops_on_every_family(make_family: Callable[[str], Path], name: str) -> None:
    pipe = wordbrush.load(make_family(name), dtype="float32")
    for upscaler in ("latent", "lanczos"):
        hires = {"scale": 2, "steps": 2, "strength": 0.6, "upscaler": upscaler}
        batch = pipe("a fox", seed=3, count=2, steps=2, width=32, height=16, hires=hires, upscale=1.5)
        request = batch.request
        assert batch.images[0].size == (96, 48)
        alone = pipe("a fox", seed=4, steps=2, width=32, height=16, hires=hires, upscale=1.5)
        difference = np.abs(np.asarray(batch.images[1], int) - np.asarray(alone.images[0], int))
        assert difference.max() <= 1, f"{name} {upscaler}"
    assert len(list(pipe.steps(request))) == pipe.step_count(request)
