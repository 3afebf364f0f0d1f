"""Samplers against exact solutions, and the promises of their common signature."""

from __future__ import annotations

import inspect

import pytest
import torch
from tests.diffusion.gaussian import (
    MEAN,
    PROCESSES,
    SPREAD,
    even_in_lambda,
    exact_flow,
    exact_network,
    exact_x0,
    final_mean_and_spread,
    ode_error,
)
from tests.diffusion.orders import DETERMINISTIC, HIGH, LOW, STOCHASTIC, measured_order
from torch import Tensor

from wordbrush.diffusion.noise import NoiseSource
from wordbrush.diffusion.plan import SamplingConfig
from wordbrush.diffusion.prediction import PREDICTIONS, Denoiser, get_prediction, network_denoiser
from wordbrush.diffusion.process import BetaConfig
from wordbrush.diffusion.samplers import SAMPLERS, get_sampler
from wordbrush.diffusion.samplers.base import intervals
from wordbrush.diffusion.samplers.multistep import pndm_runge_kutta
from wordbrush.diffusion.schedules import SCHEDULES, schedule_times


def test_every_sampler_is_tested() -> None:
    assert {*DETERMINISTIC, *STOCHASTIC, "lcm"} == set(SAMPLERS)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("sampler", [*DETERMINISTIC, *STOCHASTIC])
def test_order_of_convergence(sampler: str, process: str) -> None:
    order = measured_order(sampler, PROCESSES[process])
    published = (DETERMINISTIC | STOCHASTIC)[sampler]
    print(f"{sampler} on {process}: order {order:.2f}, published {published}")
    assert order > published - 0.25


def test_the_runge_kutta_start_of_pndm_keeps_its_order() -> None:
    process = PROCESSES["vp"]
    errors = []
    for steps in (60, 120):
        times = even_in_lambda(process, HIGH, LOW, steps)
        x = exact_flow(process, torch.full((1, 1, 1, 1), 1.5, dtype=torch.float64), 1.0, times[0])
        run = pndm_runge_kutta(lambda x, t: exact_x0(process, x, t), x, times, process, lambda: torch.zeros(1))
        end = list(run)[-1].x
        errors.append(float((end - exact_flow(process, x, times[0], times[-1])).abs()))
    assert errors[1] < errors[0] / 2**1.75


@pytest.mark.parametrize("sampler", [*DETERMINISTIC, *STOCHASTIC, "lcm"])
def test_a_flow_runs_as_any_process_of_the_same_signal_to_noise_ratio(sampler: str) -> None:
    """Divided by alpha, all processes are one; only the methods that are straight in x of a flow itself are not."""
    ends = []
    for name in ("vp", "ve", "flow", "flow_shifted"):
        process = PROCESSES[name]
        times = [process.time_of_lambda(-2.4 + 0.5 * i) for i in range(12)]
        x = torch.linspace(-2, 2, 5, dtype=torch.float64).reshape(1, 1, 1, 5)
        draws = iter(torch.sin(x * k) for k in range(1, 40))
        noisy = x * process.sigma(times[0])
        run = get_sampler(sampler)(
            lambda x, t, p=process: torch.tanh(x / p.alpha(t)), noisy, times, process, lambda d=draws: next(d)
        )
        ends.append(list(run)[-1].x / process.alpha(times[-1]))
    assert torch.allclose(ends[0], ends[1], rtol=1e-9)
    assert torch.allclose(ends[2], ends[3], rtol=1e-9)
    assert torch.allclose(ends[0], ends[2], rtol=1e-9) == (sampler not in ("heun", "dpm2", "lms"))


@pytest.mark.parametrize("process", ["vp", "flow_shifted"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_prediction_type_makes_no_difference(sampler: str, process: str) -> None:
    """The exact denoiser of Gaussian data, once as such and once through each prediction type and its timesteps."""
    chosen = PROCESSES[process]
    times = schedule_times("normal", chosen, 12)

    def end(denoiser: Denoiser) -> Tensor:
        x = torch.linspace(-2, 2, 5, dtype=torch.float64).reshape(1, 1, 1, 5)
        draws = iter(torch.sin(x * k) for k in range(1, 40))
        return list(get_sampler(sampler)(denoiser, x, times, chosen, lambda: next(draws)))[-1].x

    direct = end(lambda x, t: exact_x0(chosen, x, t))
    for kind in PREDICTIONS:
        assert torch.allclose(end(network_denoiser(exact_network(chosen, kind), chosen, kind)), direct, atol=1e-7), kind


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("sampler", DETERMINISTIC)
def test_whole_run_reaches_the_exact_solution(sampler: str, process: str) -> None:
    """From pure noise to t = 0, singular ends and all."""
    errors = []
    for steps in (20, 100):
        times = even_in_lambda(PROCESSES[process], 5.0, PROCESSES[process].lambda_(1.0), steps)
        errors.append(ode_error(sampler, PROCESSES[process], [1.0, *times[1:], 0.0]))
    print(f"{sampler} on {process}: error {errors[0]:.1e} with 20 steps, {errors[1]:.1e} with 100")
    assert errors[1] < 0.06
    assert errors[1] < errors[0] / 2


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("sampler", STOCHASTIC)
def test_stochastic_samplers_end_at_the_right_distribution(sampler: str, process: str) -> None:
    errors = []
    for steps in (25, 200):
        lowest = PROCESSES[process].lambda_(1.0)
        times = [1.0, *even_in_lambda(PROCESSES[process], 5.0, lowest, steps)[1:], 0.0]
        mean, spread = final_mean_and_spread(sampler, PROCESSES[process], times)
        errors.append((abs(mean - MEAN), abs(spread - SPREAD)))
    print(f"{sampler} on {process}: errors of mean and spread {errors[0]} with 25 steps, {errors[1]} with 200")
    assert errors[1][0] < 2e-3
    assert errors[1][1] < 0.03
    assert errors[1][1] < max(errors[0][1] / 3, 2e-3)


@pytest.mark.parametrize("process", PROCESSES)
def test_lcm_with_an_exact_consistency_function(process: str) -> None:
    """LCM is for networks that jump along the trajectory; with one that does so exactly, its distribution is exact."""
    mean, spread = final_mean_and_spread(
        "lcm", PROCESSES[process], [1.0, 0.7, 0.4, 0.0], lambda chosen, x, t: exact_flow(chosen, x, t, 0.0)
    )
    assert mean == pytest.approx(MEAN, abs=1e-9)
    assert spread == pytest.approx(SPREAD, abs=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_zero_terminal_snr_with_v_prediction(sampler: str, schedule: str) -> None:
    """sigma / alpha = 4096 at the first step, in float32, with a network that is not quite exact: no blow-up."""
    config = SamplingConfig(noise=BetaConfig(zero_terminal_snr=True), prediction="v", sampler=sampler)
    process = config.process

    def network(x: Tensor, timestep: float) -> Tensor:
        t = process.time_of_timestep(timestep)
        v = get_prediction("v").from_x0(exact_x0(process, x, t), x, process.alpha(t), process.sigma(t))
        return v + 0.02 * process.sigma(t) * torch.sin(5.0 * x.roll(1, -1) + timestep)

    for steps in (3, 20):
        plan = config.plan(steps, schedule=schedule)
        assert plan.times[0] == 1.0 or schedule == "ddim_uniform"
        noise = NoiseSource([3, 4], (4, 5, 5))
        denoiser = network_denoiser(network, process, "v", plan.timestep)
        run = get_sampler(sampler)(denoiser, noise() * plan.start_scale, plan.times, process, noise)
        states = [step.x for step in run]
        assert all(x.isfinite().all() for x in states)
        assert max(float(x.abs().max()) for x in states) < 6.0


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("process", PROCESSES)
def test_few_steps_stay_finite(sampler: str, process: str) -> None:
    for steps in (1, 2, 5):
        for schedule in SCHEDULES:
            times = schedule_times(schedule, PROCESSES[process], steps)
            noise = NoiseSource([1], (1, 2, 2))
            x = noise() * PROCESSES[process].sigma(times[0])
            run = get_sampler(sampler)(
                lambda x, t: exact_x0(PROCESSES[process], x, t), x, times, PROCESSES[process], noise
            )
            assert all(step.x.isfinite().all() for step in run)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_yields_each_step_and_stops_when_stopped(sampler: str) -> None:
    process, calls = PROCESSES["vp"], []

    def denoiser(x: Tensor, t: float) -> Tensor:
        calls.append(t)
        return exact_x0(process, x, t)

    times = schedule_times("normal", process, 6)
    noise = NoiseSource([5], (1, 2, 2))
    run = get_sampler(sampler)(denoiser, noise(), times, process, noise)
    assert inspect.isgenerator(run)
    assert calls == []
    first = next(run)
    assert (first.index, first.t) == (0, times[1])
    made = len(calls)
    assert made <= 2
    run.close()
    assert len(calls) == made
    steps = list(get_sampler(sampler)(denoiser, noise(), times, process, noise))
    assert [step.index for step in steps] == list(range(6))
    assert [step.t for step in steps] == times[1:]
    assert all(step.x0.shape == step.x.shape == (1, 1, 2, 2) for step in steps)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_picture_is_the_same_alone_and_in_a_batch(sampler: str) -> None:
    process, times = PROCESSES["vp"], schedule_times("karras", PROCESSES["vp"], 8)

    def end(seeds: list[int]) -> Tensor:
        noise = NoiseSource(seeds, (4, 3, 3))
        return list(get_sampler(sampler)(lambda x, t: torch.tanh(x), noise(), times, process, noise))[-1].x

    assert torch.equal(end([7, 8, 9, 10, 11, 12, 13])[4], end([11])[0])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_input_is_left_alone_and_the_dtype_kept(sampler: str) -> None:
    process, times = PROCESSES["flow"], schedule_times("normal", PROCESSES["flow"], 4)
    noise = NoiseSource([1], (1, 2, 2))
    x = noise()
    before = x.clone()
    steps = list(get_sampler(sampler)(lambda x, t: 0.5 * x, x, times, process, noise))
    assert torch.equal(x, before)
    assert all(step.x.dtype == torch.float32 for step in steps)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'eular' is unknown; there are ddpm, ddim, .*lcm"):
        get_sampler("eular")


@pytest.mark.parametrize("times", [[1.0], [], [0.5, 0.6], [1.2, 0.0], [0.5, -0.1], [0.5, 0.5, 0.0], [0.0, 0.0]])
def test_times_must_fall(times: list[float]) -> None:
    with pytest.raises(ValueError, match="times"):
        intervals(times)
