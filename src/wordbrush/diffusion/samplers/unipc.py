"""UniPC (Zhao 2023): a predictor whose guess is corrected with the next call of the denoiser, at no extra call."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from torch import Tensor

from wordbrush.diffusion.noise import Noise
from wordbrush.diffusion.prediction import Denoiser
from wordbrush.diffusion.process import Process
from wordbrush.diffusion.samplers.base import Step, extrapolated, intervals, step_to


def unipc(denoiser: Denoiser, x: Tensor, times: Sequence[float], process: Process, noise: Noise) -> Iterator[Step]:
    """UniPC-2 with B(h) = exp(h) - 1 and x0-prediction (Zhao 2023, algorithms 1, 2), first order at both ends.

    x0 is computed at the predicted x; correcting x afterwards costs no further call (the paper's "free" corrector).
    """
    del noise  # deterministic
    steps = len(times) - 1
    seen: list[Tensor] = []  # x0 of earlier steps, newest first
    corrected = x
    order = 1
    for index, (t, t_next) in enumerate(intervals(times)):
        x0 = denoiser(x, t)
        if seen:
            better = _corrected(x0, seen, process, times[: index + 1], order)
            corrected = step_to(corrected, better, process, times[index - 1], t)
        order = min(2, index + 1, steps - index)
        best = x0 if order == 1 else extrapolated(x0, seen[0], process, times, index)
        x = step_to(corrected, best, process, t, t_next)
        seen = [x0, *seen[:1]]
        yield Step(index, t_next, x, x0)


def _corrected(x0: Tensor, seen: list[Tensor], process: Process, times: Sequence[float], order: int) -> Tensor:
    """UniC: the value that, in place of x0, takes the last step again now that its far end is known.

    times: up to the time that x0 was computed at, the far end; seen[0] belongs to the near end.
    """
    if order == 1:
        return 0.5 * (seen[0] + x0)
    before, near, far = (process.lambda_(t) for t in times[-3:])
    step = far - near
    r = (before - near) / step  # < 0
    weight = math.expm1(-step)
    phi_2 = -weight / step - 1.0
    phi_3 = -phi_2 / step - 0.5
    b1, b2 = phi_2 / weight, 2.0 * phi_3 / weight
    rho_before = (b1 - b2) / (1.0 - r)  # solves rho_before + rho_far = b1, r * rho_before + rho_far = b2
    rho_far = b1 - rho_before
    return seen[0] + (seen[1] - seen[0]) * (rho_before / r) + (x0 - seen[0]) * rho_far
