"""Schedules: known lists, and what holds for all."""

from __future__ import annotations

from itertools import pairwise

import pytest
from tests.diffusion.gaussian import PROCESSES

from wordbrush.diffusion.process import DiscreteVP
from wordbrush.diffusion.schedules import SCHEDULES, Family, Grid, beta_quantile, get_schedule, schedule_times

VP = PROCESSES["vp"]


def timesteps(name: str, steps: int, **grid: object) -> list[float]:
    assert isinstance(VP, DiscreteVP)
    return [round(VP.timestep(t), 3) for t in schedule_times(name, VP, steps, Grid(**grid))[:-1]]  # type: ignore[arg-type]


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("name", SCHEDULES)
def test_times_fall_from_noise_to_the_end(name: str, process: str) -> None:
    for steps in (1, 2, 5, 20, 50):
        times = schedule_times(name, PROCESSES[process], steps)
        assert len(times) == steps + 1
        assert times == sorted(set(times), reverse=True)
        assert times[-1] == 0.0
        assert times[0] == pytest.approx(1.0) or name == "ddim_uniform"
    assert schedule_times(name, PROCESSES[process], 5, end=0.001)[-1] == 0.001


def test_known_timesteps() -> None:
    assert timesteps("normal", 5) == [999.0, 749.25, 499.5, 249.75, 0.0]
    assert timesteps("normal", 5, family=Family.MULTISTEP) == [999.0, 799.0, 599.0, 400.0, 200.0]
    assert timesteps("normal", 5, family=Family.ANCESTRAL) == [999.0, 749.0, 500.0, 250.0, 0.0]
    assert timesteps("ddim_uniform", 5, steps_offset=1) == [801.0, 601.0, 401.0, 201.0, 1.0]
    assert timesteps("sgm_uniform", 5) == [999.0, 799.0, 599.0, 399.0, 199.0]
    assert timesteps("sgm_uniform", 4, family=Family.CONSISTENCY) == [999.0, 759.0, 499.0, 259.0]
    assert timesteps("simple", 3) == [999.0, 666.0, 333.0]


def test_karras_is_even_in_the_seventh_root() -> None:
    roots = [VP.level(t) ** (1 / 7) for t in schedule_times("karras", VP, 6)[:-1]]
    gaps = [before - after for before, after in pairwise(roots)]
    assert gaps == pytest.approx([gaps[0]] * 5)
    assert (roots[0] ** 7, roots[-1] ** 7) == pytest.approx((14.6146, 0.0292), abs=1e-4)


def test_align_your_steps_at_its_own_ten_steps() -> None:
    """The timesteps that the authors publish beside the levels."""
    published = [999, 850, 736, 645, 545, 455, 343, 233, 124, 24]
    assert timesteps("ays", 10) == pytest.approx(published, abs=1.0)


def test_beta_quantiles() -> None:
    stats = pytest.importorskip("scipy.stats")
    for part in (0.0, 0.001, 0.05, 0.25, 0.5, 0.9, 1.0):
        assert beta_quantile(part, 0.6) == pytest.approx(float(stats.beta.ppf(part, 0.6, 0.6)), abs=1e-12)


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'kerras' is unknown; there are normal, ddim_uniform, .*, ays"):
        get_schedule("kerras")
    with pytest.raises(ValueError, match="steps=0"):
        schedule_times("normal", VP, 0)
    with pytest.raises(ValueError, match="steps=1001 is too many"):
        schedule_times("ddim_uniform", VP, 1001)
    assert len(schedule_times("ddim_uniform", VP, 1000)) == 1001
