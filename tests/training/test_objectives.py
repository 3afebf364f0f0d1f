"""Training objectives against hand-worked numbers and diffusers' training formulas."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_snr
from pydantic import ValidationError

from wordbrush.diffusion.plan import SamplingConfig
from wordbrush.diffusion.prediction import network_denoiser
from wordbrush.diffusion.process import BetaConfig, RectifiedFlow
from wordbrush.diffusion.scheduler_config import read_scheduler_config
from wordbrush.errors import RequestError
from wordbrush.training.objectives import (
    Noising,
    Objective,
    Times,
    deltas_of,
    distance,
    draw_times,
    loss_rows,
    noised,
    offset,
    slope,
    target_of,
    weights_of,
)

# alpha_bar = 0.64 and 0.36: alpha 0.8 and 0.6, sigma 0.6 and 0.8
BY_HAND = BetaConfig(trained_betas=(0.36, 1 - 0.36 / 0.64), num_train_timesteps=2)


def noising(prediction: str) -> Noising:
    return Noising(SamplingConfig(noise=BY_HAND, prediction=prediction))


def ddpm(prediction: str = "epsilon", **more: object) -> tuple[DDPMScheduler, Noising]:
    kinds = {"epsilon": "epsilon", "v": "v_prediction", "sample": "sample"}
    scheduler = DDPMScheduler(prediction_type=kinds[prediction], **more)
    return scheduler, Noising(read_scheduler_config({"_class_name": "DDPMScheduler", **scheduler.config}))


def pictures(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64).view(-1, 1, 1, 1)


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("epsilon", [3.0, 3.0]),
        ("sample", [2.0, 2.0]),
        ("v", [0.8 * 3 - 0.6 * 2, 0.6 * 3 - 0.8 * 2]),
        # timestep 0 leads to x0. At timestep 1 x = 0.6 * 2 + 0.8 * 3 = 3.6; alpha_ts = 0.75,
        # sigma_ts^2 = 0.64 - 0.75^2 * 0.36 = 0.4375; mean = (0.75 * 0.36 * 3.6 + 0.8 * 0.4375 * 2) / 0.64
        ("previous", [2.0, (0.75 * 0.36 * 3.6 + 0.8 * 0.4375 * 2) / 0.64]),
        ("difference", [0.8 * 2 + 0.6 * 3 - 2.0, 3.6 - (0.75 * 0.36 * 3.6 + 0.8 * 0.4375 * 2) / 0.64]),
    ],
)
def test_targets_by_hand(prediction: str, expected: list[float]) -> None:
    found = noising(prediction)
    levels = found.at(torch.tensor([0.2, 0.7]))
    assert levels.timesteps.tolist() == [0, 1]
    target = target_of(prediction, pictures(2.0, 2.0), pictures(3.0, 3.0), levels)
    assert target.flatten().tolist() == pytest.approx(expected)


def test_the_mean_of_the_step_before_is_ddpms() -> None:
    """diffusers' DDPM takes its step to exactly that mean when nothing is added."""
    scheduler, _ = ddpm("sample", clip_sample=False, beta_schedule="linear")
    found = Noising(read_scheduler_config({"_class_name": "DDPMScheduler", **scheduler.config}))
    generator = torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(1, 3, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    for timestep in (1, 10, 500, 999):
        levels = found.at(torch.tensor([(timestep + 0.5) / 1000]))
        x = noised(x0, eps, levels.alpha.view(1, 1, 1, 1), levels.sigma.view(1, 1, 1, 1))
        scheduler.config.variance_type = "fixed_small"
        step = scheduler.step(x0, timestep, x, generator=torch.Generator().manual_seed(1))
        variance = scheduler._get_variance(timestep)
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
        mean = step.prev_sample - variance**0.5 * noise
        torch.testing.assert_close(target_of("previous", x0, eps, levels), mean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v", "previous", "difference"])
def test_sampling_inverts_every_target(prediction: str) -> None:
    """A network that answers with the target is a denoiser that answers x0."""
    sampling = SamplingConfig(noise=BetaConfig(num_train_timesteps=100), prediction=prediction)
    found = Noising(sampling)
    generator = torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(1, 1, 2, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    for timestep in (0, 1, 50, 99):
        levels = found.at(torch.tensor([(timestep + 0.5) / 100]))
        target = target_of(prediction, x0, eps, levels)
        denoiser = network_denoiser(lambda x, told, answer=target: answer, sampling.process, prediction)
        x = noised(x0, eps, levels.alpha.view(1, 1, 1, 1), levels.sigma.view(1, 1, 1, 1))
        torch.testing.assert_close(denoiser(x, (timestep + 1) / 100), x0, rtol=1e-6, atol=1e-7)


def test_noise_and_velocity_are_diffusers() -> None:
    scheduler, found = ddpm("v", beta_schedule="squaredcos_cap_v2", rescale_betas_zero_snr=False)
    x0, eps = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    timesteps = torch.tensor([0, 300, 600, 999])
    levels = found.at((timesteps + 0.5) / 1000)
    shape = (-1, 1, 1, 1)
    ours = noised(x0, eps, levels.alpha.float().view(shape), levels.sigma.float().view(shape))
    torch.testing.assert_close(ours, scheduler.add_noise(x0, eps, timesteps), rtol=1e-4, atol=1e-5)
    velocity = scheduler.get_velocity(x0, eps, timesteps)
    torch.testing.assert_close(target_of("v", x0, eps, levels), velocity, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"])
@pytest.mark.parametrize("zero", [False, True])
def test_schedules_are_diffusers(schedule: str, zero: bool) -> None:
    scheduler, found = ddpm(beta_schedule=schedule, rescale_betas_zero_snr=zero)
    assert found.alpha_bar is not None
    # diffusers leaves the last at 0, which has no logarithm; ours is 2^-24
    torch.testing.assert_close(found.alpha_bar.float(), scheduler.alphas_cumprod, rtol=2e-3, atol=1e-7)


def min_snr_of_diffusers(scheduler: DDPMScheduler, timesteps: torch.Tensor, gamma: float) -> torch.Tensor:
    """As in diffusers' examples/text_to_image/train_text_to_image.py."""
    snr = compute_snr(scheduler, timesteps)
    weights = torch.stack([snr, gamma * torch.ones_like(timesteps)], dim=1).min(dim=1)[0]
    divisor = {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones_like(snr)}
    return weights / divisor[scheduler.config.prediction_type]


@pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
def test_min_snr_is_diffusers(prediction: str) -> None:
    scheduler, found = ddpm(prediction, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    timesteps = torch.tensor([0, 10, 100, 250, 500, 900, 999])
    levels = found.at((timesteps + 0.5) / 1000)
    torch.testing.assert_close(levels.snr.float(), compute_snr(scheduler, timesteps), rtol=1e-3, atol=1e-7)
    ours = weights_of(Objective(weighting="min_snr", gamma=5.0), prediction, levels)
    torch.testing.assert_close(ours.float(), min_snr_of_diffusers(scheduler, timesteps, 5.0), rtol=1e-3, atol=1e-6)


def test_weights_by_hand() -> None:
    """SNR is (0.8 / 0.6)^2 = 16 / 9 and (0.6 / 0.8)^2 = 9 / 16."""
    levels = noising("epsilon").at(torch.tensor([0.2, 0.7]))
    one = Objective(weighting="min_snr", gamma=1.0)
    assert weights_of(one, "epsilon", levels).tolist() == pytest.approx([9 / 16, 1.0])
    assert weights_of(one, "sample", levels).tolist() == pytest.approx([1.0, 9 / 16])
    assert weights_of(one, "v", levels).tolist() == pytest.approx([1 / (16 / 9 + 1), (9 / 16) / (9 / 16 + 1)])
    p2 = Objective(weighting="p2", gamma=0.5, p2_k=2.0)
    expected = [(2 + 16 / 9) ** -0.5, (2 + 9 / 16) ** -0.5]
    assert weights_of(p2, "epsilon", levels).tolist() == pytest.approx(expected)
    on_x0 = [weight * snr for weight, snr in zip(expected, (16 / 9, 9 / 16), strict=True)]
    assert weights_of(p2, "sample", levels).tolist() == pytest.approx(on_x0)
    assert weights_of(Objective(), "v", levels).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v", "flow", "previous", "difference"])
@pytest.mark.parametrize("weighting", ["min_snr", "p2"])
def test_a_weighting_means_the_same_for_every_prediction(prediction: str, weighting: str) -> None:
    """An error of d in x0 weighs the same whichever way the network says it."""
    found = noising("epsilon")
    levels = found.at(torch.tensor([0.2, 0.7]))
    objective = Objective.model_validate({"weighting": weighting})
    x0, eps = pictures(0.3, -0.2), pictures(1.0, 0.5)
    x = levels.alpha.view(-1, 1, 1, 1) * x0 + levels.sigma.view(-1, 1, 1, 1) * eps
    wrong = x0 + 0.1
    wrong_eps = (x - levels.alpha.view(-1, 1, 1, 1) * wrong) / levels.sigma.view(-1, 1, 1, 1)
    error = target_of(prediction, wrong, wrong_eps, levels) - target_of(prediction, x0, eps, levels)
    torch.testing.assert_close(error.flatten().abs() * slope(prediction, levels), torch.full((2,), 0.1).double())
    loss = loss_rows(objective, prediction, error.float(), torch.zeros(2, 1, 1, 1), levels)
    same = weights_of(objective, "sample", levels) * 0.01
    torch.testing.assert_close(loss, same.float())


def test_a_flow_is_diffusers() -> None:
    """x = (1 - sigma) x0 + sigma eps, target eps - x0, sigma shifted (Esser 2024, eq. 23)."""
    peer = FlowMatchEulerDiscreteScheduler(shift=3.0)
    found = Noising(SamplingConfig(noise=RectifiedFlow(shift=3.0), prediction="flow"))
    u = 1 - torch.arange(1000).double() / 1000
    levels = found.at(u)
    torch.testing.assert_close(levels.sigma.float(), peer.sigmas[:1000])
    torch.testing.assert_close(levels.timesteps.float(), peer.timesteps)
    torch.testing.assert_close(levels.alpha, 1 - levels.sigma)
    target = target_of("flow", pictures(2.0), pictures(3.0), found.at(torch.tensor([0.5])))
    assert target.item() == pytest.approx(1.0)
    assert found.at(torch.tensor([0.5])).sigma.item() == pytest.approx(3 * 0.5 / (1 + 2 * 0.5))


def test_logit_normal_times_are_diffusers() -> None:
    times = Times(kind="logit_normal", mean=-0.4, std=1.3, stratified=False)
    ours = draw_times(times, 40_000, torch.Generator().manual_seed(0))
    peer = compute_density_for_timestep_sampling(
        "logit_normal", 40_000, logit_mean=-0.4, logit_std=1.3, generator=torch.Generator().manual_seed(1)
    )
    for share in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert ours.quantile(share).item() == pytest.approx(peer.quantile(share).item(), abs=0.01)
    # the median is sigmoid(mean)
    assert ours.median().item() == pytest.approx(1 / (1 + math.exp(0.4)), abs=0.01)


def test_stratified_times_have_one_in_each_part() -> None:
    for kind in ("uniform", "logit_normal"):
        drawn = draw_times(Times.model_validate({"kind": kind}), 16, torch.Generator().manual_seed(3))
        ranks = drawn if kind == "uniform" else torch.special.ndtr(torch.logit(drawn))
        assert sorted((ranks * 16).long().tolist()) == list(range(16))
    free = draw_times(Times(stratified=False), 16, torch.Generator().manual_seed(3))
    assert sorted((free * 16).long().tolist()) != list(range(16))


def test_distances_by_hand() -> None:
    output, target, delta = pictures(0.5, 3.0), pictures(0.0, 1.0), torch.tensor([1.0, 1.0])
    assert distance("mse", output, target).flatten().tolist() == [0.25, 4.0]
    assert distance("l1", output, target).flatten().tolist() == [0.5, 2.0]
    assert distance("huber", output, target, delta).flatten().tolist() == [0.25, 3.0]  # 1 * (2 * 2 - 1)
    expected = [2 * (math.sqrt(1.25) - 1), 2 * (math.sqrt(5.0) - 1)]
    assert distance("pseudo_huber", output, target, delta).flatten().tolist() == pytest.approx(expected)
    torch_huber = 2 * torch.nn.functional.huber_loss(output, target, reduction="none", delta=1.0)
    torch.testing.assert_close(distance("huber", output, target, delta), torch_huber)


def test_scheduled_deltas_by_hand() -> None:
    """The formulas of diffusers' examples/research_projects/scheduled_huber_loss_training."""
    levels = noising("epsilon").at(torch.tensor([0.2, 0.7]))

    def found(schedule: str) -> list[float]:
        objective = Objective.model_validate({"loss": "huber", "delta": 0.1, "delta_schedule": schedule})
        return deltas_of(objective, levels).tolist()

    assert found("constant") == pytest.approx([0.1, 0.1])
    assert found("exponential") == pytest.approx([0.1**0.5, 0.1])
    # sigma / alpha = 0.75 and 4 / 3
    assert found("snr") == pytest.approx([0.9 / 1.75**2 + 0.1, 0.9 / (1 + 4 / 3) ** 2 + 0.1])


def test_offset_and_perturbed_noise_by_hand() -> None:
    eps, shift = torch.ones(1, 1, 2, 2), torch.full((1, 1, 1, 1), 3.0)
    assert offset(eps, shift, 0.1).unique().tolist() == pytest.approx([1.3])
    one, x0 = torch.ones(1, 1, 1, 1), torch.full((1, 1, 2, 2), 2.0)
    found = noised(x0, eps, 0.8 * one, 0.6 * one, 0.1 * torch.full_like(eps, 5.0))
    assert found.unique().tolist() == pytest.approx([0.8 * 2 + 0.6 * (1 + 0.5)])


def test_a_whole_loss_by_hand() -> None:
    """Two rows, min-SNR on eps: 9 / 16 * mean(d^2) and 1 * mean(d^2)."""
    levels = noising("epsilon").at(torch.tensor([0.2, 0.7]))
    output = torch.tensor([[1.0, 3.0], [2.0, 0.0]]).view(2, 1, 1, 2)
    rows = loss_rows(Objective(weighting="min_snr", gamma=1.0), "epsilon", output, torch.zeros(2, 1, 1, 2), levels)
    assert rows.tolist() == pytest.approx([9 / 16 * 5.0, 2.0])


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"gamma": 5}, "gamma has a meaning for weighting"),
        ({"weighting": "min_snr", "p2_k": 2}, "p2_k has a meaning"),
        ({"delta": 0.5}, "belong to loss: huber"),
        ({"loss": "l1", "delta_schedule": "snr"}, "belong to loss: huber"),
        ({"times": {"mean": 1.0}}, "logit_normal only"),
        ({"weighing": "p2"}, "Extra inputs"),
        ({"times": {"kind": "logit_normal", "std": 0}}, "greater than 0"),
    ],
)
def test_conflicting_choices_are_refused(table: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Objective.model_validate(table)


def test_a_flow_has_no_step_before() -> None:
    with pytest.raises(RequestError, match="no training timesteps"):
        Noising(SamplingConfig(noise=RectifiedFlow(), prediction="previous"))
    with pytest.raises(ValueError, match="this process has none"):
        network_denoiser(lambda x, t: x, RectifiedFlow(), "difference")
