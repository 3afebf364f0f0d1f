"""Prediction types: targets and estimates are inverses, for any alpha and sigma."""

from __future__ import annotations

import pytest
import torch
from tests.diffusion.gaussian import PROCESSES

from wordbrush.diffusion.prediction import PREDICTIONS, get_prediction, network_denoiser


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("name", PREDICTIONS)
def test_a_perfect_network_gives_back_x0(name: str, process: str) -> None:
    generator = torch.Generator().manual_seed(1)
    x0, eps = torch.randn(2, 3, 1, 4, 4, generator=generator, dtype=torch.float64).unbind(0)
    for t in (0.1, 0.5, 0.97):
        alpha, sigma = PROCESSES[process].alpha(t), PROCESSES[process].sigma(t)
        x = alpha * x0 + sigma * eps
        target = PREDICTIONS[name].target(x0, eps, alpha, sigma)
        assert torch.allclose(PREDICTIONS[name].to_x0(target, x, alpha, sigma), x0)
        assert torch.allclose(PREDICTIONS[name].from_x0(x0, x, alpha, sigma), target)


def test_v_is_salimans_and_ho_s() -> None:
    x0, eps = torch.tensor([2.0]), torch.tensor([3.0])
    assert PREDICTIONS["v"].target(x0, eps, 0.8, 0.6) == pytest.approx(0.8 * 3.0 - 0.6 * 2.0)
    assert PREDICTIONS["flow"].target(x0, eps, 0.8, 0.2) == pytest.approx(1.0)


def test_training_sizes_may_differ_by_picture() -> None:
    x0, eps = torch.randn(2, 5, 2, 3, 3, generator=torch.Generator().manual_seed(2)).unbind(0)
    alpha, sigma = PROCESSES["vp"].coefficients(torch.linspace(0.1, 0.9, 5))
    target = PREDICTIONS["v"].target(x0, eps, alpha, sigma)
    assert torch.allclose(PREDICTIONS["v"].to_x0(target, alpha * x0 + sigma * eps, alpha, sigma), x0, atol=1e-5)


def test_the_network_is_told_what_the_plan_says() -> None:
    told = []

    def network(x: torch.Tensor, timestep: float) -> torch.Tensor:
        told.append(timestep)
        return x.bfloat16()

    x = torch.ones(1, 1, 2, 2)
    assert network_denoiser(network, PROCESSES["vp"], "sample")(x, 0.5).dtype == torch.float32
    network_denoiser(network, PROCESSES["vp"], "sample", lambda t: 7.0)(x, 0.5)
    assert told == [499.0, 7.0]


def test_unknown_prediction_type() -> None:
    with pytest.raises(ValueError, match=r"'eps' is unknown; there are epsilon, flow, sample, v"):
        get_prediction("eps")
