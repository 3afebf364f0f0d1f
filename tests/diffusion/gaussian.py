"""Gaussian data, for which denoiser, trajectory and final distribution are known exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from wordbrush.diffusion.prediction import Network, get_prediction
from wordbrush.diffusion.process import BetaConfig, DiscreteVP, KarrasVE, Process, RectifiedFlow
from wordbrush.diffusion.samplers import get_sampler

MEAN, SPREAD = 0.7, 0.6

PROCESSES: dict[str, Process] = {
    "vp": DiscreteVP.from_betas(BetaConfig()),
    "vp_zero_snr": DiscreteVP.from_betas(BetaConfig(zero_terminal_snr=True)),
    "ve": KarrasVE(),
    "flow": RectifiedFlow(),
    "flow_shifted": RectifiedFlow(shift=3.0),
}


def size(process: Process, t: float) -> float:
    """Standard deviation of x at t."""
    return math.hypot(process.alpha(t) * SPREAD, process.sigma(t))


def exact_x0(process: Process, x: Tensor, t: float) -> Tensor:
    """E[x0 | x at t]."""
    alpha, sigma = process.alpha(t), process.sigma(t)
    return MEAN + alpha * SPREAD**2 / size(process, t) ** 2 * (x - alpha * MEAN) if sigma > 0 else x


def exact_network(process: Process, kind: str) -> Network:
    """The same as a network of that prediction type, which knows the time by the timestep it is told."""

    def network(x: Tensor, timestep: float) -> Tensor:
        if isinstance(process, DiscreteVP):
            t = process.time_of_timestep(timestep)
        else:
            t = process.time_of_level(timestep / 1000.0)
        alpha, sigma = max(process.alpha(t), 1e-6), process.sigma(t)
        return get_prediction(kind).from_x0(exact_x0(process, x, t), x, alpha, sigma)

    return network


def exact_flow(process: Process, x: Tensor, t: float, t_next: float) -> Tensor:
    """Where the probability-flow ODE takes x from t to t_next: the same number of standard deviations from the mean."""
    grown = size(process, t_next) / size(process, t)
    return process.alpha(t_next) * MEAN + (x - process.alpha(t) * MEAN) * grown


def even_in_lambda(process: Process, high: float, low: float, steps: int) -> list[float]:
    """times whose lambda runs evenly from low to high."""
    return [process.time_of_lambda(low + (high - low) * i / steps) for i in range(steps + 1)]


def ode_error(sampler: str, process: Process, times: Sequence[float]) -> float:
    """Largest difference from the exact trajectory's end, for a few x within two standard deviations of the mean."""
    start = process.alpha(times[0]) * MEAN + size(process, times[0]) * torch.linspace(-2, 2, 9, dtype=torch.float64)
    start = start.reshape(9, 1, 1, 1)

    def denoiser(x: Tensor, t: float) -> Tensor:
        return exact_x0(process, x, t)

    def no_noise() -> Tensor:
        raise AssertionError(f"{sampler} is deterministic but drew noise")

    end = list(get_sampler(sampler)(denoiser, start, times, process, no_noise))[-1].x
    return float((end - exact_flow(process, start, times[0], times[-1])).abs().max())


def final_mean_and_spread(
    sampler: str,
    process: Process,
    times: Sequence[float],
    denoise: Callable[[Process, Tensor, float], Tensor] = exact_x0,
) -> tuple[float, float]:
    """The exact mean and standard deviation with which a stochastic sampler ends on Gaussian data.

    Every step is linear in x and in the noise, so the batch carries one basis vector each: row 0 the mean (no noise),
    row 1 the starting noise alone, row 2 + k the k-th draw alone. The variance is the sum of the squared responses.
    """
    rows = 2 * len(times) + 2
    start = torch.full((rows, 1, 1, 1), process.alpha(times[0]) * MEAN, dtype=torch.float64)
    start[1] += size(process, times[0])
    drawn = 0

    def denoiser(x: Tensor, t: float) -> Tensor:
        return denoise(process, x, t)

    def noise() -> Tensor:
        nonlocal drawn
        basis = torch.zeros(rows, 1, 1, 1, dtype=torch.float64)
        basis[2 + drawn] = 1.0
        drawn += 1
        return basis

    end = list(get_sampler(sampler)(denoiser, start, times, process, noise))[-1].x.flatten()
    responses = end[1:] - end[0]
    return float(end[0]), float(responses.square().sum().sqrt())
