"""Second-order samplers that call the denoiser twice a step (once on the last, to t = 0)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from torch import Tensor

from wordbrush.diffusion.noise import Noise
from wordbrush.diffusion.prediction import Denoiser
from wordbrush.diffusion.process import Process
from wordbrush.diffusion.samplers.base import (
    Step,
    decay_of,
    drawn,
    eps_of,
    from_pure_noise,
    intervals,
    noisy_step_to,
    step_to,
)

# From a level so high, or over so long a step, the two slopes have nothing to do with each other, and half their
# difference times the step would be all error: zero terminal SNR begins at 4096, schedules of 2 or 3 steps end so.
# Where noise is no more than signal, as all along a flow, slopes are small and diffusers' picture is a picture.
_HIGHEST_LEVEL = 1000.0
_LONGEST_STEP = 200.0


def _can_average(process: Process, t: float, t_next: float) -> bool:
    """Whether a second slope helps in the step from t to t_next."""
    if t_next <= 0.0:
        return False
    level = process.level(t)
    return level <= 1.0 or (level < _HIGHEST_LEVEL and level < _LONGEST_STEP * process.level(t_next))


def slope(x: Tensor, x0: Tensor, process: Process, t: float) -> Tensor:
    """dy / dlevel of y = x / scale (Karras 2022, eq. 3): (y - x0) / level."""
    return (x / process.scale(t) - x0) / process.level(t)


def heun(denoiser: Denoiser, x: Tensor, times: Sequence[float], process: Process, noise: Noise) -> Iterator[Step]:
    """Heun's trapezoid rule (Karras 2022, algorithm 1): the mean of the slopes at both ends."""
    del noise  # deterministic
    for index, (t, t_next) in enumerate(intervals(times)):
        x0 = denoiser(x, t)
        ahead = step_to(x, x0, process, t, t_next)
        if _can_average(process, t, t_next):
            change = slope(ahead, denoiser(ahead, t_next), process, t_next) - slope(x, x0, process, t)
            ahead = ahead + change * (0.5 * process.scale(t_next) * (process.level(t_next) - process.level(t)))
        x = ahead
        yield Step(index, t_next, x, x0)


def dpm2(denoiser: Denoiser, x: Tensor, times: Sequence[float], process: Process, noise: Noise) -> Iterator[Step]:
    """The midpoint rule with the midpoint at the geometric mean of the levels (k-diffusion; Karras 2022, B.2)."""
    del noise  # deterministic
    for index, (t, t_next) in enumerate(intervals(times)):
        x0 = denoiser(x, t)
        ahead = step_to(x, x0, process, t, t_next)
        if _can_average(process, t, t_next):
            middle = process.time_of_level(math.sqrt(process.level(t) * process.level(t_next)))
            x_middle = step_to(x, x0, process, t, middle)
            change = slope(x_middle, denoiser(x_middle, middle), process, middle) - slope(x, x0, process, t)
            ahead = ahead + change * (process.scale(t_next) * (process.level(t_next) - process.level(t)))
        x = ahead
        yield Step(index, t_next, x, x0)


def dpm2_a(denoiser: Denoiser, x: Tensor, times: Sequence[float], process: Process, noise: Noise) -> Iterator[Step]:
    """DPM2 ancestral (k-diffusion): a midpoint step past t_next to the noise level of DDPM's mean, then fresh noise.

    That level lies at lambda_next + h, so that the midpoint between it and t, halfway in lambda, is t_next itself.
    """
    for index, (t, t_next) in enumerate(intervals(times)):
        x0 = denoiser(x, t)
        if from_pure_noise(process, t) or not _can_average(process, t, t_next):
            x = noisy_step_to(x, x0, process, t, t_next, noise)
        else:
            middle = step_to(x, x0, process, t, t_next)
            eps = eps_of(middle, denoiser(middle, t_next), process, t_next)
            decay = decay_of(process, t, t_next)
            grow = process.alpha(t_next) / process.alpha(t)
            down, up = process.sigma(t_next) * decay, process.sigma(t_next) * math.sqrt(1.0 - decay**2)
            x = x * grow + eps * (down - grow * process.sigma(t)) + up * drawn(noise, x)
        yield Step(index, t_next, x, x0)
