"""Lists of timesteps as diffusers' schedulers give them, which name every call of the network, not every step.

    heun        999, 749, 749, 500, 500     each but the first is where one step ends and the next begins
    dpm2        999, 885.2, 749, 632.2, 499 the middle of each step stands between
    dpm2_a      as heun, but for the rounding of the middle, which is the end of the step
    pndm        999, 749, 749, 500          only the first step is taken twice
    pndm with its Runge-Kutta start         999, 874, 874, 749, 749 … for three steps, then as they are

Such a list is the same run as the list of its steps, and only for the sampler whose it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from wordbrush.diffusion.process import DiscreteVP, Process

# diffusers finds the middles in float32, and rounds the steps' own timesteps but not the middles on a karras schedule.
_MIDDLE_ERROR = 0.02
_ROUNDING = 0.6


def step_timesteps(
    timesteps: Sequence[float], sampler: str, process: Process, *, runge_kutta_start: bool = False
) -> list[float]:
    """The timesteps at which steps begin, given those at which the network is called; other lists as they are."""
    listed = [float(timestep) for timestep in timesteps]
    starts, seconds = listed[::2], listed[1::2]
    if sampler == "heun" and seconds == starts[1:]:
        return starts
    if sampler == "dpm2_a" and _agree(seconds, starts[1:], _ROUNDING):
        return starts
    if sampler == "dpm2" and isinstance(process, DiscreteVP):
        rounded = all(start.is_integer() for start in starts) and not all(second.is_integer() for second in seconds)
        if _agree(seconds, _middles(starts, process), _ROUNDING if rounded else _MIDDLE_ERROR):
            return starts
    if sampler == "pndm" and runge_kutta_start:
        return _after_runge_kutta(listed)
    if sampler == "pndm" and listed[1:2] == listed[2:3]:
        return listed[:1] + listed[2:]
    return listed


def _agree(found: Sequence[float], expected: Sequence[float], error: float) -> bool:
    return len(found) == len(expected) and all(abs(a - b) <= error for a, b in zip(found, expected, strict=True))


def _middles(starts: Sequence[float], process: DiscreteVP) -> list[float]:
    """The timestep halfway in the logarithm of the level between each two that the process has."""
    last = process.num_train_timesteps - 1
    times = [process.time_of_timestep(min(max(timestep, 0.0), last)) for timestep in starts]
    levels = [process.level(t) for t in times]
    return [process.timestep(process.time_of_level(math.sqrt(high * low))) for high, low in pairwise(levels)]


def _after_runge_kutta(listed: list[float]) -> list[float]:
    """Each of three steps from a to b is listed as a, middle, middle, b."""
    head, tail = listed[:12], listed[12:]
    quads = [head[i : i + 4] for i in (0, 4, 8)]
    whole = len(head) == 12 and [quad[3] for quad in quads] == [quads[1][0], quads[2][0], *tail[:1]]
    if not whole or any(quad[1:3] != [0.5 * (quad[0] + quad[3])] * 2 for quad in quads):
        return listed
    return [quad[0] for quad in quads] + tail
