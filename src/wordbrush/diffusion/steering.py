"""Guidance by a gradient: any judge of clean pictures that can be differentiated steers the loop."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from wordbrush.diffusion.prediction import Denoiser
from wordbrush.diffusion.process import Process

Gradient = Callable[[Tensor, float], Tensor]
"""(x0: (B, C, h, w), t) -> the gradient of log p(y | x0) with respect to x0, of the same shape."""


def steered(denoiser: Denoiser, gradient: Gradient, scale: float, process: Process) -> Denoiser:
    """Classifier guidance (Dhariwal & Nichol 2021, §4) with the gradient taken at the clean estimate.

    Guidance adds scale * sigma^2 / alpha * grad log p(y | x) to x0. Through Tweedie's formula that is
    scale * Cov[x0 | x] * grad log p(y | x0): how far x0 may move is how uncertain it still is. The covariance, the
    network's Jacobian in disguise, is replaced by that of unit-variance data, sigma^2 / (alpha^2 + sigma^2), as MPGD
    (He 2024, algorithm 1) leaves the Jacobian out: no gradient goes through the network, which may therefore be of any
    kind, and steering costs the judge alone.
    """

    def towards(x: Tensor, t: float) -> Tensor:
        x0 = denoiser(x, t)
        alpha, sigma = process.alpha(t), process.sigma(t)
        return x0 + scale * sigma**2 / (alpha**2 + sigma**2) * gradient(x0, t)

    return towards
