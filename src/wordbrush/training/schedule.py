"""The learning rate's course over a run."""

from __future__ import annotations

import math

from wordbrush.training.recipe import Optimiser


def learning_rate(step: int, steps: int, optimiser: Optimiser) -> float:
    """Linear warm-up, the full rate, then down to `final` times it: by half a cosine, a line, or not at all."""
    if step < optimiser.warmup:
        return optimiser.learning_rate * (step + 1) / optimiser.warmup
    if optimiser.schedule == "constant":
        return optimiser.learning_rate
    start = max(optimiser.warmup, steps * (1 - optimiser.decay))
    part = min(max(0.0, (step - start) / max(1.0, steps - start)), 1.0)
    left = 1 - part if optimiser.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * part))
    return optimiser.learning_rate * (optimiser.final + (1 - optimiser.final) * left)
