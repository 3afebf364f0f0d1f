"""Orders of convergence on Gaussian data: what the papers promise, and how to measure them.

All runs go from lambda -2.5 to 3, where nothing is singular, in equal steps of lambda. A deterministic sampler is
compared with the exact trajectory. A stochastic one is compared in the spread with which it ends: its mean is exact
at any number of steps, because the estimate of x0 stays the same, on average, along the reverse process.
"""

from __future__ import annotations

import math

from tests.diffusion.gaussian import even_in_lambda, final_mean_and_spread, ode_error, size

from wordbrush.diffusion.process import Process

LOW, HIGH = -2.5, 3.0

DETERMINISTIC = {
    "ddim": 1,  # Song 2021
    "pndm": 2,  # Liu 2022, property 3.2
    "euler": 1,
    "heun": 2,  # Karras 2022, algorithm 1
    "dpm2": 2,  # Karras 2022, appendix B.2
    "lms": 4,
    "dpmpp_2m": 2,  # Lu 2022, DPM-Solver++, section 4
    "unipc": 3,  # Zhao 2023, theorem 3.1: the corrector adds one to the predictor's 2
    "deis": 2,  # Zhang & Chen 2023
}
STOCHASTIC = {
    "ddpm": 1,
    "euler_a": 1,
    "dpm2_a": 2,
    "dpmpp_2s_a": 2,
    "dpmpp_sde": 2,
    "dpmpp_2m_sde": 2,  # Lu 2022, DPM-Solver++, section 6
    "dpmpp_3m_sde": 2,  # not 3: see docs/samplers.md
}

# These reach their order once they have seen a few steps, or but for the last one: both are made short enough.
_WARMED = {"lms", "unipc"}


def measured_order(sampler: str, process: Process) -> float:
    """log2 of what twice the steps divide the error by."""
    error_of = _ode_error if sampler in DETERMINISTIC else _spread_error
    return math.log2(error_of(sampler, process, 60) / error_of(sampler, process, 120))


def _ode_error(sampler: str, process: Process, steps: int) -> float:
    times = _warmed(process, steps) if sampler in _WARMED else even_in_lambda(process, HIGH, LOW, steps)
    return ode_error(sampler, process, times)


def _spread_error(sampler: str, process: Process, steps: int) -> float:
    times = even_in_lambda(process, HIGH, LOW, steps)
    return abs(final_mean_and_spread(sampler, process, times)[1] - size(process, times[-1]))


def _warmed(process: Process, steps: int) -> list[float]:
    """Equal steps in lambda after four short ones and before another, short enough for their errors not to count."""
    short = ((HIGH - LOW) / steps) ** 3
    begin = [process.time_of_lambda(LOW + i * short) for i in range(4)]
    inner = even_in_lambda(process, HIGH - short, LOW + 4 * short, steps)
    return [*begin, *inner, process.time_of_lambda(HIGH)]
