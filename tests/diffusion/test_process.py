"""Noise processes: known values, inverses, ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.diffusion.gaussian import PROCESSES

from wordbrush.diffusion.process import BetaConfig, DiscreteVP, KarrasVE, RectifiedFlow, zero_terminal_snr

TIMES = [1e-5, 0.0005, 0.001, 0.0015, 0.0213, 0.3, 0.5, 0.77, 0.999, 0.9995, 1.0]


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("t", TIMES)
def test_the_four_functions_agree(name: str, t: float) -> None:
    process = PROCESSES[name]
    alpha, sigma = process.alpha(t), process.sigma(t)
    if alpha > 0.0:
        assert process.lambda_(t) == pytest.approx(math.log(alpha / sigma), abs=1e-9)
        assert process.time_of_lambda(process.lambda_(t)) == pytest.approx(t, rel=1e-9)
    assert process.level(t) == pytest.approx(sigma / process.scale(t), rel=1e-12)
    assert process.time_of_level(process.level(t)) == pytest.approx(t, rel=1e-9)


@pytest.mark.parametrize("name", PROCESSES)
def test_noise_grows_with_time(name: str) -> None:
    process = PROCESSES[name]
    lambdas = [process.lambda_(t) for t in sorted([*TIMES, process.first_time])]
    assert lambdas == sorted(lambdas, reverse=True)
    assert process.lambda_(0.0) == math.inf
    assert (process.alpha(0.0), process.sigma(0.0)) == (1.0, 0.0)
    assert process.time_of_lambda(-50.0) == pytest.approx(1.0)
    assert process.time_of_lambda(math.inf) == 0.0


def test_stable_diffusion_values() -> None:
    """The two ends of sigma / alpha that every paper on samplers of Stable Diffusion quotes."""
    process = DiscreteVP.from_betas(BetaConfig())
    assert process.level(1.0) == pytest.approx(14.6146, abs=1e-4)
    assert process.level(process.first_time) == pytest.approx(0.0292, abs=1e-4)
    assert [process.timestep(process.time_of_timestep(k)) for k in range(1000)] == list(range(1000))
    assert process.alpha(0.5) ** 2 == pytest.approx(process.alphas_cumprod[499])
    assert process.alpha(0.3) ** 2 + process.sigma(0.3) ** 2 == pytest.approx(1.0)


def test_between_timesteps_the_ratio_is_log_linear() -> None:
    process = DiscreteVP.from_betas(BetaConfig())
    middle = process.time_of_timestep(500.5)
    ends = process.level(process.time_of_timestep(500)) * process.level(process.time_of_timestep(501))
    assert process.level(middle) == pytest.approx(math.sqrt(ends))
    assert process.timestep(middle) == pytest.approx(500.5)
    # below the first timestep it falls linearly to 0
    assert process.level(0.0005) == pytest.approx(0.5 * process.level(0.001))
    assert process.timestep(0.0005) == 0.0


def test_zero_terminal_snr_keeps_the_start_and_empties_the_end() -> None:
    plain = BetaConfig().alphas_cumprod()
    rescaled = zero_terminal_snr(plain)
    assert rescaled[0] == pytest.approx(plain[0])
    assert rescaled[-1] == 2.0**-24
    assert np.all(np.diff(rescaled) < 0)
    assert DiscreteVP(rescaled).level(1.0) == pytest.approx(4096.0)


def test_rectified_flow_shift() -> None:
    """Esser 2024, eq. 23: shifting by s multiplies sigma / alpha by s."""
    plain, shifted = RectifiedFlow(), RectifiedFlow(shift=3.0)
    assert plain.sigma(0.4) == 0.4
    assert plain.timestep(0.25) == 250.0
    for t in (0.01, 0.4, 0.9):
        ratio = plain.sigma(t) / plain.alpha(t)
        assert shifted.sigma(t) / shifted.alpha(t) == pytest.approx(3.0 * ratio)


def test_karras_values() -> None:
    process = KarrasVE()
    assert process.sigma(1.0) == 80.0
    assert process.sigma(process.first_time) == pytest.approx(0.002)
    assert process.timestep(1.0) == pytest.approx(math.log(80.0) / 4)


@pytest.mark.parametrize("name", PROCESSES)
def test_batched_coefficients_for_training(name: str) -> None:
    process = PROCESSES[name]
    times = torch.tensor([0.001, 0.5, 1.0], dtype=torch.float64)
    alpha, sigma = process.coefficients(times)
    assert alpha.shape == sigma.shape == (3, 1, 1, 1)
    assert alpha.dtype == torch.float32
    for i, t in enumerate(times.tolist()):
        assert float(alpha[i]) == pytest.approx(process.alpha(t), rel=1e-6)
        assert float(sigma[i]) == pytest.approx(process.sigma(t), rel=1e-6)


def test_trained_betas_replace_the_schedule() -> None:
    config = BetaConfig(trained_betas=(0.1, 0.2, 0.5))
    assert config.alphas_cumprod() == pytest.approx([0.9, 0.72, 0.36])


def test_impossible_values_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'cosine' is not one of linear, scaled_linear"):
        BetaConfig(beta_schedule="cosine")
    with pytest.raises(ValueError, match="must fall"):
        DiscreteVP([0.5, 0.6])
    with pytest.raises(ValueError, match="shape"):
        DiscreteVP([0.5])
    with pytest.raises(ValueError, match="shift=0"):
        RectifiedFlow(shift=0.0)
    with pytest.raises(ValueError, match="num_train_timesteps=1"):
        BetaConfig(num_train_timesteps=1)
