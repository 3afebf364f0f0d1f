"""DPM-Solver++ (Lu 2022): exponential integrators that follow x0 as a function of lambda.

Between two times the noise decays by a known factor, and only x0 has to be extrapolated. A method of higher order is
then the first-order step with a better value in place of x0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from torch import Tensor

from wordbrush.diffusion.noise import Noise
from wordbrush.diffusion.prediction import Denoiser
from wordbrush.diffusion.process import Process
from wordbrush.diffusion.samplers.base import Step, ends_low, extrapolated, intervals, noisy_step_to, step_to


def dpmpp_2m(denoiser: Denoiser, x: Tensor, times: Sequence[float], process: Process, noise: Noise) -> Iterator[Step]:
    """DPM-Solver++(2M) (Lu 2022, algorithm 2): second order at one call a step."""
    del noise  # deterministic
    previous: Tensor | None = None
    for index, (t, t_next) in enumerate(intervals(times)):
        x0 = denoiser(x, t)
        first_order = previous is None or ends_low(index, times)
        best = x0 if first_order or previous is None else extrapolated(x0, previous, process, times, index)
        x = step_to(x, best, process, t, t_next)
        previous = x0
        yield Step(index, t_next, x, x0)


def dpmpp_2m_sde(
    denoiser: Denoiser, x: Tensor, times: Sequence[float], process: Process, noise: Noise
) -> Iterator[Step]:
    """SDE-DPM-Solver++(2M) in its midpoint form (Lu 2022, eq. 18): the same extrapolation on the reverse SDE."""
    previous: Tensor | None = None
    for index, (t, t_next) in enumerate(intervals(times)):
        x0 = denoiser(x, t)
        first_order = previous is None or ends_low(index, times)
        best = x0 if first_order or previous is None else extrapolated(x0, previous, process, times, index)
        x = noisy_step_to(x, best, process, t, t_next, noise)
        previous = x0
        yield Step(index, t_next, x, x0)


def dpmpp_2s_a(denoiser: Denoiser, x: Tensor, times: Sequence[float], process: Process, noise: Noise) -> Iterator[Step]:
    """DPM-Solver++(2S) ancestral (k-diffusion): two calls a step, the second at the middle in lambda.

    The deterministic part goes to lambda_next + h and fresh noise comes back (see `dpm2_a`), so the middle is t_next.
    """
    for index, (t, t_next) in enumerate(intervals(times)):
        x0 = denoiser(x, t)
        best = x0 if t_next <= 0.0 else denoiser(step_to(x, x0, process, t, t_next), t_next)
        x = noisy_step_to(x, best, process, t, t_next, noise)
        yield Step(index, t_next, x, x0)


def dpmpp_sde(denoiser: Denoiser, x: Tensor, times: Sequence[float], process: Process, noise: Noise) -> Iterator[Step]:
    """DPM-Solver++ SDE (k-diffusion, r = 1/2): a noisy half step, then the whole step with what was seen there.

    Both steps belong to one Brownian path whose clock is sigma / alpha, so the whole step's noise contains the half's.
    """
    for index, (t, t_next) in enumerate(intervals(times)):
        x0 = denoiser(x, t)
        if t_next <= 0.0:
            x = step_to(x, x0, process, t, t_next)
        else:
            middle = process.time_of_lambda(0.5 * (process.lambda_(t) + process.lambda_(t_next)))
            first, whole = _brownian_pair(process, t, middle, t_next, noise)
            x_middle = noisy_step_to(x, x0, process, t, middle, first)
            x = noisy_step_to(x, denoiser(x_middle, middle), process, t, t_next, whole)
        yield Step(index, t_next, x, x0)


def _brownian_pair(process: Process, t: float, middle: float, t_next: float, noise: Noise) -> tuple[Tensor, Tensor]:
    """Unit noise of a Brownian path from t to middle, and from t to t_next, from two independent draws."""
    high, between, low = (math.exp(-process.lambda_(u)) for u in (t, middle, t_next))
    share = (high - between) / (high - low)
    first, second = noise(), noise()
    return first, math.sqrt(share) * first + math.sqrt(1.0 - share) * second


def dpmpp_3m_sde(
    denoiser: Denoiser, x: Tensor, times: Sequence[float], process: Process, noise: Noise
) -> Iterator[Step]:
    """SDE-DPM-Solver++(3M) (k-diffusion; the third order of Lu 2022, appendix, on the reverse SDE)."""
    seen: list[Tensor] = []  # x0 of earlier steps, newest first
    for index, (t, t_next) in enumerate(intervals(times)):
        x0 = denoiser(x, t)
        last = index == len(times) - 2 and t_next <= 0.0
        best = x0 if last or not seen else _third_order(x0, seen, process, times, index)
        x = noisy_step_to(x, best, process, t, t_next, noise)
        seen = [x0, *seen[:1]]
        yield Step(index, t_next, x, x0)


def _third_order(x0: Tensor, seen: list[Tensor], process: Process, times: Sequence[float], index: int) -> Tensor:
    """The constant x0 whose step equals that along the parabola (or line) through the last estimates, over lambda."""
    now, after = process.lambda_(times[index]), process.lambda_(times[index + 1])
    step = after - now
    weight = -math.expm1(-2.0 * step)  # integral of the decay, to which `x0` alone would be multiplied
    phi_2 = 1.0 - weight / (2.0 * step)
    phi_3 = phi_2 / (2.0 * step) - 0.5
    r0 = (now - process.lambda_(times[index - 1])) / step
    slope_0 = (x0 - seen[0]) / r0  # first derivative, times the step
    if len(seen) == 1:
        return x0 + slope_0 * (phi_2 / weight)
    r1 = (process.lambda_(times[index - 1]) - process.lambda_(times[index - 2])) / step
    slope_1 = (seen[0] - seen[1]) / r1
    bend = (slope_0 - slope_1) / (r0 + r1)  # half the second derivative, times the step squared
    return x0 + (slope_0 + bend * r0) * (phi_2 / weight) - bend * (phi_3 / weight)
