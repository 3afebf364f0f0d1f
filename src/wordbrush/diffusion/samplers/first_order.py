"""Samplers that call the denoiser once a step and remember nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from wordbrush.diffusion.noise import Noise
from wordbrush.diffusion.prediction import Denoiser
from wordbrush.diffusion.process import Process
from wordbrush.diffusion.samplers.base import Step, drawn, intervals, noisy_step_to, step_to


def euler(denoiser: Denoiser, x: Tensor, times: Sequence[float], process: Process, noise: Noise) -> Iterator[Step]:
    """Euler's method on the probability-flow ODE (Karras 2022, algorithm 1 without its second half)."""
    del noise  # deterministic
    for index, (t, t_next) in enumerate(intervals(times)):
        x0 = denoiser(x, t)
        x = step_to(x, x0, process, t, t_next)
        yield Step(index, t_next, x, x0)


def ddim(denoiser: Denoiser, x: Tensor, times: Sequence[float], process: Process, noise: Noise) -> Iterator[Step]:
    """DDIM without noise (Song 2021, eq. 12, eta = 0): the same formula as Euler's, found from the other side."""
    yield from euler(denoiser, x, times, process, noise)


def ddpm(denoiser: Denoiser, x: Tensor, times: Sequence[float], process: Process, noise: Noise) -> Iterator[Step]:
    """Ancestral sampling with the posterior variance (Ho 2020, algorithm 2 and eq. 7), between any two times."""
    for index, (t, t_next) in enumerate(intervals(times)):
        x0 = denoiser(x, t)
        x = noisy_step_to(x, x0, process, t, t_next, noise)
        yield Step(index, t_next, x, x0)


def euler_a(denoiser: Denoiser, x: Tensor, times: Sequence[float], process: Process, noise: Noise) -> Iterator[Step]:
    """Euler ancestral: k-diffusion's split into a step down and fresh noise, which is DDPM's posterior once more."""
    yield from ddpm(denoiser, x, times, process, noise)


def lcm(denoiser: Denoiser, x: Tensor, times: Sequence[float], process: Process, noise: Noise) -> Iterator[Step]:
    """Multistep consistency sampling (Luo 2023, algorithm 3): jump to x0, then noise it afresh to the next time.

    For networks distilled to jump; with any other the result is right only in the mean.
    """
    for index, (t, t_next) in enumerate(intervals(times)):
        x0 = denoiser(x, t)
        sigma = process.sigma(t_next)
        x = process.alpha(t_next) * x0 + sigma * drawn(noise, x) if sigma > 0.0 else x0
        yield Step(index, t_next, x, x0)
