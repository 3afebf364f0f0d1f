"""Plans: how a model's config, a sampler and a schedule become the times of a run; and the config's own rules."""

from __future__ import annotations

import json

import pytest

from wordbrush.diffusion.plan import FAMILIES, SamplingConfig
from wordbrush.diffusion.process import BetaConfig, RectifiedFlow
from wordbrush.diffusion.samplers import SAMPLERS
from wordbrush.diffusion.scheduler_config import read_scheduler_config, write_scheduler_config
from wordbrush.diffusion.schedules import SCHEDULES

SD = SamplingConfig(noise=BetaConfig(), sampler="pndm", steps_offset=1, set_alpha_to_one=False)
FLOW = SamplingConfig(noise=RectifiedFlow(shift=3.0), prediction="flow", sampler="euler")


def told(config: SamplingConfig, **request: object) -> list[float]:
    plan = config.plan(**request)  # type: ignore[arg-type]
    return [plan.timestep(t) for t in plan.times[:-1]]


def test_every_sampler_has_a_family() -> None:
    assert set(FAMILIES) == set(SAMPLERS)


@pytest.mark.parametrize("config", [SD, FLOW], ids=["vp", "flow"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_with_every_schedule(sampler: str, config: SamplingConfig) -> None:
    for schedule in (*SCHEDULES, None):
        plan = config.plan(10, sampler=sampler, schedule=schedule)
        assert len(plan.times) == 11
        assert all(0.0 <= plan.timestep(t) <= 1000.0 for t in plan.times[:-1])
        assert 0.9 < plan.start_scale <= 1.0


def test_the_default_schedule_spelled_out_is_the_same_plan() -> None:
    for sampler in SAMPLERS:
        assert SD.plan(10, sampler=sampler) == SD.plan(10, sampler=sampler, schedule=SD.default_schedule(sampler))


def test_timesteps_replace_the_schedule() -> None:
    assert told(SD, sampler="ddim", timesteps=[901, 401, 1]) == [901.0, 401.0, 1.0]
    # diffusers lists a timestep twice where a scheduler calls the network twice
    assert told(SD, sampler="heun", timesteps=[999, 500, 500, 0, 0]) == [999.0, 500.0, 0.0]
    assert told(FLOW, timesteps=[1000, 750.5, 3]) == pytest.approx([1000.0, 750.5, 3.0])


def test_the_end_follows_the_config() -> None:
    first = SD.process.first_time
    ends = {name: SD.plan(timesteps=[900, 10], sampler=name).times[-1] for name in SAMPLERS}
    assert {name for name, end in ends.items() if end == first} == {"ddim", "pndm", "deis"}
    assert {end for name, end in ends.items() if name not in ("ddim", "pndm", "deis")} == {0.0}
    low = SamplingConfig(noise=BetaConfig(), ends_clean=False)
    ends = {name: low.plan(timesteps=[900, 10], sampler=name).times[-1] for name in SAMPLERS}
    assert {name for name, end in ends.items() if end > 0.0} == {
        "euler", "dpmpp_2m", "dpmpp_2m_sde", "unipc", "pndm", "deis",
    }  # fmt: skip


def test_where_the_noise_starts() -> None:
    process = SD.process
    assert SD.plan(10, sampler="euler").start_scale == process.sigma(1.0) < 1.0
    assert SD.plan(10, sampler="euler", schedule="ddim_uniform").start_scale == pytest.approx(1.0)
    assert SD.plan(10, sampler="dpmpp_2m").start_scale == pytest.approx(1.0)
    assert FLOW.plan(10).start_scale == 1.0


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"steps": 5, "sampler": "eular"}, "sampler 'eular' is unknown; there are ddpm"),
        ({"steps": 5, "schedule": "kerras"}, "schedule 'kerras' is unknown; there are normal"),
        ({"steps": 0}, "steps=0 is too few"),
        ({"steps": 5, "timesteps": [3]}, "either steps or timesteps"),
        ({}, "either steps or timesteps"),
        ({"timesteps": []}, "holds no step"),
        ({"timesteps": [10, 20]}, "20 follows 10"),
        ({"timesteps": [1000]}, "must fall within 999 to 0"),
        ({"timesteps": [5, -1]}, "must fall within 999 to 0"),
        ({"timesteps": [5], "schedule": "karras"}, "leave out schedule='karras'"),
    ],
    ids=str,
)
def test_impossible_requests_are_refused(request_: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SD.plan(**request_)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "config",
    [
        SD,
        FLOW,
        SamplingConfig(noise=BetaConfig(zero_terminal_snr=True), prediction="v", spacing="sgm_uniform"),
        SamplingConfig(noise=BetaConfig(trained_betas=(0.1, 0.2)), sampler="lcm", distilled_steps=2),
        SamplingConfig(noise=BetaConfig(beta_schedule="linear"), sampler="ddpm", clip_x0=1.5),
        SamplingConfig(noise=RectifiedFlow(shift=2.0), prediction="flow", sampler="dpmpp_2m", ends_clean=True),
        SamplingConfig(noise=BetaConfig(), sampler="dpmpp_2m_sde", level_schedule="exponential"),
    ],
    ids=lambda config: config.sampler,
)
def test_config_survives_the_file(config: SamplingConfig) -> None:
    again = read_scheduler_config(json.loads(json.dumps(write_scheduler_config(config))))
    if config.noise == BetaConfig(trained_betas=(0.1, 0.2)):
        assert again.noise.num_train_timesteps == 2
        assert again.process.alpha(1.0) == config.process.alpha(1.0)
    else:
        assert again == config


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "DPMSolverSinglestepScheduler"}, "'DPMSolverSinglestepScheduler' is unknown; there are DDPM"),
        ({}, "scheduler class None is unknown"),
        ({"_class_name": "PNDMScheduler", "skip_prk_steps": False}, "skip_prk_steps=False"),
        ({"_class_name": "DDIMScheduler", "thresholding": True}, "thresholding=True"),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "timestep_type='continuous'"),
        ({"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3}, "solver_order=3"),
        ({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver"}, "'dpmsolver'"),
        ({"_class_name": "UniPCMultistepScheduler", "solver_type": "bh1"}, "solver_type='bh1'"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}, "use_dynamic_shifting=True"),
        ({"_class_name": "DDIMScheduler", "prediction_type": "x0"}, "prediction_type='x0' is unknown"),
        ({"_class_name": "DDIMScheduler", "timestep_spacing": "even"}, "timestep_spacing='even' is unknown"),
        ({"_class_name": "DDIMScheduler", "beta_schedule": "exp"}, "beta_schedule='exp'"),
    ],
    ids=str,
)
def test_configs_that_nothing_stands_for_are_refused(config: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_scheduler_config(config)


def test_samplers_without_a_diffusers_scheduler_are_not_written() -> None:
    for sampler in ("dpmpp_2s_a", "dpmpp_3m_sde"):
        with pytest.raises(ValueError, match=f"no scheduler for sampler '{sampler}'"):
            write_scheduler_config(SamplingConfig(noise=BetaConfig(), sampler=sampler))
    with pytest.raises(ValueError, match="knows no zero terminal SNR"):
        write_scheduler_config(SamplingConfig(noise=BetaConfig(zero_terminal_snr=True), sampler="heun"))
