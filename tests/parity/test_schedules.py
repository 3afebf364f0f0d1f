"""Every schedule's noise levels against diffusers, k-diffusion and the published lists."""

from __future__ import annotations

import diffusers
import pytest
from tests.parity.sampler_cases import LATENT_BETAS, SCHEDULER_OF
from tests.parity.schedule_cases import (
    SD,
    SPACING_OF,
    ays_error,
    flow_schedule_error,
    k_diffusion_schedule_error,
    schedule_error,
    simple_error,
)

from wordbrush.diffusion.schedules import SCHEDULES

pytestmark = pytest.mark.filterwarnings("ignore")

BY_LEVEL = ("karras", "exponential", "beta")


def test_every_schedule_has_a_reference() -> None:
    assert {*SPACING_OF, *BY_LEVEL, "simple", "ays"} == set(SCHEDULES)


@pytest.mark.parametrize("steps", [4, 10, 30])
@pytest.mark.parametrize("sampler", ["euler", "heun", "lms", "dpmpp_2m", "unipc", "deis"])
@pytest.mark.parametrize("schedule", [*SPACING_OF, *BY_LEVEL])
def test_levels_as_in_diffusers(schedule: str, sampler: str, steps: int) -> None:
    assert schedule_error(schedule, sampler, steps) < 1e-4


@pytest.mark.parametrize("sampler", ["ddpm", "dpmpp_2m", "euler", "lcm"])
@pytest.mark.parametrize("schedule", SPACING_OF)
def test_whole_timesteps_at_every_number_of_steps(schedule: str, sampler: str) -> None:
    """Halves are rounded to even, and float noise decides what is a half: 499.5 is one of `normal` at 30 steps."""
    if sampler == "lcm" and schedule != "sgm_uniform":
        pytest.skip("LCMScheduler has one way only")
    options = {} if sampler == "lcm" else {"timestep_spacing": SPACING_OF[schedule]}
    scheduler = getattr(diffusers, SCHEDULER_OF[sampler])(**LATENT_BETAS, steps_offset=1, **options)
    for steps in range(2, 51):
        scheduler.set_timesteps(steps)
        plan = SD.plan(steps, sampler=sampler, schedule=schedule)
        assert [plan.timestep(t) for t in plan.times[:-1]] == pytest.approx(scheduler.timesteps.tolist(), abs=1e-3)


@pytest.mark.parametrize("steps", [4, 20])
@pytest.mark.parametrize("sampler", ["euler", "lcm"])
@pytest.mark.parametrize("schedule", ["normal", *BY_LEVEL])
def test_levels_of_a_static_shift(schedule: str, sampler: str, steps: int) -> None:
    assert flow_schedule_error(schedule, sampler, steps, None) < 1e-6


@pytest.mark.parametrize("tokens", [64, 256, 1024, 4096, 9216])
@pytest.mark.parametrize("schedule", ["normal", "sgm_uniform", *BY_LEVEL])
def test_levels_of_a_shift_by_picture_size(schedule: str, tokens: int) -> None:
    for steps in (2, 4, 28):
        assert flow_schedule_error(schedule, "euler", steps, tokens) < 1e-6


def test_levels_as_in_k_diffusion() -> None:
    assert k_diffusion_schedule_error("karras") < 1e-12
    assert k_diffusion_schedule_error("exponential") < 1e-12


@pytest.mark.parametrize("steps", [1, 3, 7, 20])
def test_simple_as_in_comfyui(steps: int) -> None:
    assert simple_error(steps) < 1e-12


@pytest.mark.parametrize("table", ["sd1", "sdxl"])
def test_align_your_steps_as_published(table: str) -> None:
    assert ays_error(table) < 0.7
