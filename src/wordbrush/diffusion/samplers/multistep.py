"""Linear multistep samplers: they extrapolate the slope, or the noise, from a few earlier steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from torch import Tensor

from wordbrush.diffusion.noise import Noise
from wordbrush.diffusion.prediction import Denoiser
from wordbrush.diffusion.process import Process
from wordbrush.diffusion.samplers.base import Step, ends_low, eps_of, from_pure_noise, intervals, step_to
from wordbrush.diffusion.samplers.two_stage import slope

_LMS_ORDER = 4

# Adams-Bashforth weights for equal steps, newest first (Liu 2022, PNDM, eq. 12 for four).
_ADAMS_BASHFORTH = {
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


def lms(denoiser: Denoiser, x: Tensor, times: Sequence[float], process: Process, noise: Noise) -> Iterator[Step]:
    """Linear multistep of order 4 for unequal steps (k-diffusion): the slope's Lagrange polynomial, integrated."""
    del noise  # deterministic
    slopes: list[Tensor] = []  # newest first
    levels: list[float] = []
    for index, (t, t_next) in enumerate(intervals(times)):
        x0 = denoiser(x, t)
        slopes = [slope(x, x0, process, t), *slopes[: _LMS_ORDER - 1]]
        levels = [process.level(t), *levels[: _LMS_ORDER - 1]]
        x = step_to(x, x0, process, t, t_next)
        weights = _lagrange_integrals(levels, levels[0], process.level(t_next) if t_next > 0.0 else 0.0)
        for weight, old in zip(weights[1:], slopes[1:], strict=True):  # the weights sum to the first-order step
            x = x + (old - slopes[0]) * (weight * process.scale(t_next))
        yield Step(index, t_next, x, x0)


def _lagrange_integrals(nodes: Sequence[float], start: float, end: float) -> list[float]:
    """The integral from start to end of each Lagrange basis polynomial on the (at most 4) nodes.

    Gauss' rule with two points is exact for polynomials up to degree 3.
    """
    middle, half = 0.5 * (start + end), 0.5 * (end - start)
    points = (middle - half / math.sqrt(3.0), middle + half / math.sqrt(3.0))
    return [
        half * sum(math.prod((u - other) / (node - other) for other in nodes if other != node) for u in points)
        for node in nodes
    ]


def pndm(denoiser: Denoiser, x: Tensor, times: Sequence[float], process: Process, noise: Noise) -> Iterator[Step]:
    """PNDM in its PLMS form (Liu 2022, eqs. 9, 12): Adams-Bashforth on eps, moved on by DDIM's formula.

    The first step is taken twice, the second time with the mean of eps at both its ends. Made for equal steps in t.
    """
    del noise  # deterministic
    yield from _pndm(denoiser, x, times, process, runge_kutta=0)


def pndm_runge_kutta(
    denoiser: Denoiser, x: Tensor, times: Sequence[float], process: Process, noise: Noise
) -> Iterator[Step]:
    """PNDM as published (Liu 2022, algorithm 2): its first three steps by Runge-Kutta, four calls each (eq. 13)."""
    del noise  # deterministic
    yield from _pndm(denoiser, x, times, process, runge_kutta=3)


def _pndm(
    denoiser: Denoiser, x: Tensor, times: Sequence[float], process: Process, runge_kutta: int
) -> Iterator[Step]:
    history: list[Tensor] = []  # eps, newest first
    for index, (t, t_next) in enumerate(intervals(times)):
        x0 = denoiser(x, t)
        eps = eps_of(x, x0, process, t)
        history = [eps, *history[:3]]
        two_ends = t_next > 0.0 and not from_pure_noise(process, t)
        if two_ends and index < runge_kutta:
            best = _runge_kutta(denoiser, x, eps, process, t, t_next)
        elif len(history) > 1:
            weights = _ADAMS_BASHFORTH[len(history)]
            best = sum((w * e for w, e in zip(weights[1:], history[1:], strict=True)), weights[0] * eps)
        elif two_ends:
            ahead = step_to(x, x0, process, t, t_next)
            best = 0.5 * (eps + eps_of(ahead, denoiser(ahead, t_next), process, t_next))
        else:
            best = eps
        # x moves on by x0, which is always at hand; with best = eps the rest is nothing, even where alpha is
        x = step_to(x, x0, process, t, t_next) + (best - eps) * _drift(process, t, t_next)
        yield Step(index, t_next, x, x0)


def _drift(process: Process, t: float, t_next: float) -> float:
    """By how much x at t_next grows with the noise that a step from t assumes (Liu 2022, eq. 9)."""
    return process.sigma(t_next) - process.alpha(t_next) * process.sigma(t) / max(process.alpha(t), 1e-6)


def _runge_kutta(denoiser: Denoiser, x: Tensor, eps: Tensor, process: Process, t: float, t_next: float) -> Tensor:
    """The noise that takes x from t to t_next as Runge-Kutta of order 4 would: weighted over both ends and the middle.

    eps: at t.
    """

    def seen(assumed: Tensor, u: float) -> Tensor:
        """eps at u after a step there from t under an assumed one."""
        moved = x * (process.alpha(u) / process.alpha(t)) + assumed * _drift(process, t, u)
        return eps_of(moved, denoiser(moved, u), process, u)

    middle = 0.5 * (t + t_next)
    first = seen(eps, middle)
    second = seen(first, middle)
    return (eps + 2.0 * first + 2.0 * second + seen(second, t_next)) / 6.0


def deis(denoiser: Denoiser, x: Tensor, times: Sequence[float], process: Process, noise: Noise) -> Iterator[Step]:
    """DEIS of order 2 (Zhang & Chen 2023, rho-AB with log rho as the variable): eps linear in lambda, integrated."""
    del noise  # deterministic
    previous: Tensor | None = None
    for index, (t, t_next) in enumerate(intervals(times)):
        x0 = denoiser(x, t)
        eps = eps_of(x, x0, process, t)
        x = step_to(x, x0, process, t, t_next)
        if previous is not None and not ends_low(index, times):
            before, now, after = (process.lambda_(u) for u in (times[index - 1], t, t_next))
            # integral over rho = exp(-lambda) of (log rho - log rho_now) / (log rho_before - log rho_now)
            weight = (math.exp(-after) * (now - after - 1.0) + math.exp(-now)) / (now - before)
            x = x + (previous - eps) * (weight * process.alpha(t_next))
        previous = eps
        yield Step(index, t_next, x, x0)
