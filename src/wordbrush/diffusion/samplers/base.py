"""What all samplers share: the step they yield, and the two exact first-order steps that nearly all are made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from wordbrush.diffusion.noise import Noise
from wordbrush.diffusion.prediction import Denoiser
from wordbrush.diffusion.process import NO_SIGNAL, Process


@dataclass(frozen=True, slots=True)
class Step:
    """What a sampler yields after each step."""

    index: int
    """0 for the first step."""
    t: float
    """The time reached, 0 at the end."""
    x: Tensor
    """(B, C, h, w) at t."""
    x0: Tensor
    """(B, C, h, w), the denoiser's clean estimate that the step began with: the picture so far, for previews."""


Sampler = Callable[[Denoiser, Tensor, Sequence[float], Process, Noise], Iterator[Step]]
"""(denoiser, x: (B, C, h, w) at times[0], times: falling, N + 1 of them, process, noise) -> N steps.

`noise()` gives unit noise shaped like x; samplers call it only where they add noise.
"""


def intervals(times: Sequence[float]) -> list[tuple[float, float]]:
    """Neighbouring times (t, t_next); raises ValueError unless they fall from at most 1 to at least 0.

    The last two may be equal, a last step of no length: that is how diffusers ends where a schedule has reached the end
    already, and methods of higher order count that step.
    """
    if len(times) < 2:
        raise ValueError(f"times={list(times)} has no step in it; give at least two times")
    found = list(pairwise(times))
    falls = [1.0 >= t > after >= 0.0 for t, after in found]
    falls[-1] = 1.0 >= found[-1][0] >= found[-1][1] >= 0.0 and found[-1][0] > 0.0
    if not all(falls):
        wrong = found[falls.index(False)]
        raise ValueError(f"times must fall within 1 to 0, but {wrong[0]} is followed by {wrong[1]}")
    return found


def step_to(x: Tensor, x0: Tensor, process: Process, t: float, t_next: float) -> Tensor:
    """The deterministic step that is exact while x0 stays as it is: alpha_next * x0 + sigma_next * eps.

    DDIM (Song 2021, eq. 12 with no noise), which is also Karras' Euler step and DPM-Solver++'s first (Lu 2022, eq. 9):
    x_next = (sigma_next / sigma) * x + alpha_next * (1 - exp(-h)) * x0 with h = lambda_next - lambda.
    """
    keep = process.sigma(t_next) / process.sigma(t)
    return x * keep + x0 * (process.alpha(t_next) - keep * process.alpha(t))


def noisy_step_to(x: Tensor, x0: Tensor, process: Process, t: float, t_next: float, noise: Noise | Tensor) -> Tensor:
    """The stochastic step that is exact while x0 stays as it is: a draw from the posterior of x_next given x and x0.

    x_next = (sigma_next / sigma) * exp(-h) * x + alpha_next * (1 - exp(-2h)) * x0 + sigma_next * sqrt(1 - exp(-2h)) * z
    (Ho 2020, eq. 7, for any alpha and sigma). Adds and draws no noise on a step to t_next = 0.

    noise: the source of z, or z itself.
    """
    decay = decay_of(process, t, t_next)
    keep = decay * process.sigma(t_next) / process.sigma(t)
    mean = x * keep + x0 * (process.alpha(t_next) - keep * process.alpha(t))
    added = process.sigma(t_next) * math.sqrt(1.0 - decay**2)
    if added <= 0.0:
        return mean
    return mean + added * (noise.to(x) if isinstance(noise, Tensor) else drawn(noise, x))


def decay_of(process: Process, t: float, t_next: float) -> float:
    """exp(-h), h = lambda_next - lambda > 0; written so that it is 0, not an error, where sigma_next or alpha is 0."""
    return process.alpha(t) * process.sigma(t_next) / (process.sigma(t) * process.alpha(t_next))


def drawn(noise: Noise, x: Tensor) -> Tensor:
    """The next noise, on x's device and in its dtype."""
    return noise().to(x)


def eps_of(x: Tensor, x0: Tensor, process: Process, t: float) -> Tensor:
    """The noise that x holds if x0 is clean: (x - alpha * x0) / sigma."""
    return (x - process.alpha(t) * x0) / process.sigma(t)


def from_pure_noise(process: Process, t: float) -> bool:
    """Whether x at t holds no signal to speak of (zero terminal SNR, a flow's t = 1).

    Methods that average estimates of the noise take such a step by a single one: they would divide the difference of
    two by an alpha of almost 0.
    """
    return process.alpha(t) < NO_SIGNAL * process.sigma(t)


def ends_low(index: int, times: Sequence[float]) -> bool:
    """Whether this step of a multistep method falls back to first order: the last one, to t = 0 or of a short run.

    Extrapolating x0 all the way to t = 0 adds error instead of order, and Lu 2022 (section 5, "lower_order_final" in
    their code) found short runs steadier so.
    """
    return index == len(times) - 2 and (times[-1] <= 0.0 or len(times) - 1 < 15)


def extrapolated(x0: Tensor, previous: Tensor, process: Process, times: Sequence[float], index: int) -> Tensor:
    """x0 at the middle of step `index` in lambda, on the line through the last two (Lu 2022, DPM-Solver++ algorithm 2).

    previous: x0 of the step before.
    """
    before, now, after = (process.lambda_(t) for t in times[index - 1 : index + 2])
    ratio = 0.5 * (after - now) / (now - before)
    return x0 * (1.0 + ratio) - previous * ratio
