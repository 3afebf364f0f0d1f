"""Lists that name every call of the network; the numbers are those of diffusers 0.40 for Stable Diffusion's noise."""

from __future__ import annotations

import pytest

from wordbrush.diffusion.process import BetaConfig, DiscreteVP
from wordbrush.diffusion.timestep_lists import step_timesteps

EVEN = [999, 749.25, 499.5, 249.75, 0]
SD = DiscreteVP.from_betas(BetaConfig())


@pytest.mark.parametrize(
    ("sampler", "listed", "steps"),
    [
        ("heun", [999, 749.25, 749.25, 499.5, 499.5, 249.75, 249.75, 0, 0], EVEN),
        ("dpm2", [999, 885.2078, 749.25, 632.2288, 499.5, 371.3834, 249.75, 21.275, 0], EVEN),
        ("dpm2", [999, 900.5895, 786, 621.7563, 427, 195.9586, 59, 7.3177, 0], [999, 786, 427, 59, 0]),  # karras
        ("dpm2_a", [999, 749.2504, 749.25, 499.5005, 499.5, 249.7503, 249.75, 0, 0], EVEN),
        ("dpm2_a", [999, 785.954, 786, 427.4897, 427, 58.8914, 59, 0, 0], [999, 786, 427, 59, 0]),  # karras
        ("pndm", [876, 751, 751, 626, 501, 376, 251, 126, 1], [876, 751, 626, 501, 376, 251, 126, 1]),
    ],
)
def test_a_scheduler_s_own_list_is_its_steps(sampler: str, listed: list[float], steps: list[float]) -> None:
    assert step_timesteps(listed, sampler, SD) == steps
    assert step_timesteps(steps, sampler, SD) == steps
    assert step_timesteps(listed, "euler", SD) == listed


def test_the_runge_kutta_start_of_pndm() -> None:
    listed = [900, 850, 850, 800, 800, 750, 750, 700, 700, 650, 650, 600, 600, 500, 400]
    assert step_timesteps(listed, "pndm", SD, runge_kutta_start=True) == [900, 800, 700, 600, 500, 400]
    plain = [900, 800, 700, 600, 500]
    assert step_timesteps(plain, "pndm", SD, runge_kutta_start=True) == plain
    # an odd stride, where diffusers' middle is not in the middle: another run
    listed = [876, 813, 813, 751, 751, 688, 688, 626, 626, 563, 563, 501, 501, 376]
    assert step_timesteps(listed, "pndm", SD, runge_kutta_start=True) == listed


@pytest.mark.parametrize("sampler", ["heun", "dpm2", "dpm2_a", "pndm"])
def test_short_and_plain_lists_stay(sampler: str) -> None:
    for timesteps in ([999], [999, 500], [999, 700, 500], [900, 800, 700, 600]):
        assert step_timesteps(timesteps, sampler, SD) == timesteps
