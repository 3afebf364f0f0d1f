"""Guidance by a gradient: exact where the posterior is known."""

from __future__ import annotations

import pytest
import torch
from tests.diffusion.gaussian import PROCESSES
from torch import Tensor
from torch.testing import assert_close

from wordbrush.diffusion.steering import steered

PLACE, WIDTH = 1.5, 0.8


@pytest.mark.parametrize("name", sorted(PROCESSES))
@pytest.mark.parametrize("t", [0.2, 0.6, 0.95])
def test_unit_variance_data_moves_by_its_own_uncertainty(name: str, t: float) -> None:
    """Of data N(0, 1) the uncertainty of x0 is exactly sigma^2 / (alpha^2 + sigma^2)."""
    process = PROCESSES[name]
    alpha, sigma = process.alpha(t), process.sigma(t)
    x = torch.linspace(-2, 2, 5, dtype=torch.float64).reshape(5, 1, 1, 1)

    def denoiser(x: Tensor, t: float) -> Tensor:
        return x * process.alpha(t) / (process.alpha(t) ** 2 + process.sigma(t) ** 2)

    def gradient(x0: Tensor, t: float) -> Tensor:
        return (PLACE - x0) / WIDTH**2

    found = steered(denoiser, gradient, 1.0, process)(x, t)
    mean, variance = denoiser(x, t), sigma**2 / (alpha**2 + sigma**2)
    assert_close(found, mean + variance * (PLACE - mean) / WIDTH**2)


def test_scale_0_and_a_clean_picture_change_nothing() -> None:
    process = PROCESSES["vp"]
    x = torch.ones(1, 1, 1, 1)
    gradient = torch.full_like
    assert torch.equal(steered(lambda x, t: x, lambda x0, t: gradient(x0, 9.0), 0.0, process)(x, 0.5), x)
