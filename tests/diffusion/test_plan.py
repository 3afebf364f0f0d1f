"""Plans: how a model's config, a sampler and a schedule become the times of a run; and the config's own rules."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from tests.diffusion.gaussian import MEAN, SPREAD, exact_network

from wordbrush.diffusion.flow_shift import DynamicShift
from wordbrush.diffusion.plan import FAMILIES, SamplingConfig
from wordbrush.diffusion.prediction import network_denoiser
from wordbrush.diffusion.process import BetaConfig, RectifiedFlow
from wordbrush.diffusion.samplers import SAMPLERS
from wordbrush.diffusion.scheduler_config import read_scheduler_config, write_scheduler_config
from wordbrush.diffusion.schedules import AYS_LEVELS, SCHEDULES

SD = SamplingConfig(noise=BetaConfig(), sampler="pndm", steps_offset=1, set_alpha_to_one=False)
FLOW = SamplingConfig(noise=RectifiedFlow(shift=3.0), prediction="flow", sampler="euler")
FLUX_DEV = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
}
FLUX = read_scheduler_config(FLUX_DEV, family="flux-dev")


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


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("config", [SD, FLUX], ids=["vp", "flux"])
def test_every_sampler_schedule_and_prediction_ends_at_the_data(config: SamplingConfig, sampler: str) -> None:
    """From the plan's own start, with what the plan tells the network, 50 steps on Gaussian data.

    The batch carries one basis vector each, so that spread and mean at the end are exact: see `final_mean_and_spread`.
    """
    rows = 110
    kinds = itertools.cycle(("flow",) if config is FLUX else ("epsilon", "v", "sample"))
    for schedule, kind in zip(SCHEDULES, kinds, strict=False):
        plan = config.plan(50, sampler=sampler, schedule=schedule, tokens=1024)
        basis = iter(torch.eye(rows, dtype=torch.float64)[1:].reshape(-1, rows, 1, 1, 1))
        denoiser = network_denoiser(exact_network(plan.process, kind), plan.process, kind, plan.timestep)
        x = next(basis) * plan.start_scale
        *_, last = plan.sampler(denoiser, x, plan.times, plan.process, lambda draws=basis: next(draws))
        mean = float(last.x[0])
        spread = math.hypot(*(last.x[1:] - last.x[0]).flatten().tolist())
        print(f"{sampler}, {schedule}, {kind}: mean {mean:.3f} of {MEAN}, spread {spread:.3f} of {SPREAD}")
        assert mean == pytest.approx(MEAN, abs=0.06)
        # lcm's spread wants a consistency function; the parabola overshoots where a flow's last step is 20 times longer
        if sampler != "lcm" and (sampler, schedule, kind) != ("dpmpp_3m_sde", "ddim_uniform", "flow"):
            assert spread == pytest.approx(SPREAD, abs=0.11)


def test_the_default_schedule_spelled_out_is_the_same_plan() -> None:
    for sampler in SAMPLERS:
        assert SD.plan(10, sampler=sampler) == SD.plan(10, sampler=sampler, schedule=SD.default_schedule(sampler))


def test_timesteps_replace_the_schedule() -> None:
    assert told(SD, sampler="ddim", timesteps=[901, 401, 1]) == [901.0, 401.0, 1.0]
    assert told(SD, sampler="heun", timesteps=[999, 500, 500, 0, 0]) == [999.0, 500.0, 0.0]
    assert told(FLOW, timesteps=[1000, 750.5, 3]) == pytest.approx([1000.0, 750.5, 3.0])


def test_flux_shifts_its_noise_by_the_size_of_the_picture() -> None:
    """Four steps of 1024 x 1024: levels 1, 3/4, 1/2 and 1/4, each shifted by exp(1.15)."""
    assert FLUX.dynamic_shift == DynamicShift()
    assert FLUX.default_schedule() == "sgm_uniform"
    plan = FLUX.plan(4, tokens=4096)
    levels = [1.0, 0.904531, 0.759511, 0.512844, 0.0]
    assert [plan.process.sigma(t) for t in plan.times] == pytest.approx(levels, abs=1e-6)
    assert [plan.timestep(t) for t in plan.times[:-1]] == pytest.approx([1000 * s for s in levels[:-1]], abs=1e-3)
    small = FLUX.plan(4, tokens=256)
    assert small.times[1] == pytest.approx(3 * math.exp(0.5) / (3 * math.exp(0.5) + 1))
    assert plan.process == small.process == FLUX.process == RectifiedFlow()
    assert plan.start_scale == 1.0
    with pytest.raises(ValueError, match="give tokens, such as 4096"):
        FLUX.plan(4)
    with pytest.raises(ValueError, match="tokens=0 is no picture"):
        FLUX.plan(4, tokens=0)
    # given timesteps are where they are; other models take no notice
    assert told(FLUX, timesteps=[1000, 500]) == [1000.0, 500.0]
    assert SD.plan(4, tokens=99) == SD.plan(4)


def test_flux_schnell_spaces_evenly_without_a_shift() -> None:
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 1.0, "use_dynamic_shifting": False}
    schnell = read_scheduler_config(config, family="flux-schnell")
    assert told(schnell, steps=4, tokens=4096) == [1000.0, 750.0, 500.0, 250.0]


def test_linear_shifts_and_terminal_levels() -> None:
    config = FLUX_DEV | {"time_shift_type": "linear", "base_shift": 1.0, "max_shift": 3.0, "shift_terminal": 0.1}
    plan = read_scheduler_config(config, family="flux-dev").plan(2, tokens=4096)
    # 1/2 shifted by 3 is 3/4; stretched so that it becomes the terminal level
    assert [plan.process.sigma(t) for t in plan.times] == pytest.approx([1.0, 0.1, 0.0])
    plan = read_scheduler_config(config, family="flux-dev").plan(3, tokens=4096)
    # 2/3 and 1/3 become 6/7 and 3/5: 1 - 1/7 * 0.9 / 0.4 and the terminal level
    assert [plan.process.sigma(t) for t in plan.times] == pytest.approx([1.0, 1 - 0.9 / 2.8, 0.1, 0.0])


def test_the_family_chooses_the_table_of_align_your_steps() -> None:
    config = {"_class_name": "EulerDiscreteScheduler", "beta_start": 0.00085, "beta_end": 0.012}
    config["beta_schedule"] = "scaled_linear"
    levels = {}
    for family in ("sd1", "sdxl", None):
        sampling = read_scheduler_config(config, family=family)
        levels[family] = [sampling.process.level(t) for t in sampling.plan(10, schedule="ays").times[1:-1]]
    assert levels["sdxl"] == pytest.approx(AYS_LEVELS["sdxl"][1:-1])
    assert levels["sd1"] == levels[None] == pytest.approx(AYS_LEVELS["sd1"][1:-1])


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


def test_a_flow_has_no_step_at_timestep_0() -> None:
    with pytest.raises(ValueError, match="within 1000 to above 0, but 0 follows 500"):
        FLOW.plan(timesteps=[1000, 500, 0])


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
        SamplingConfig(noise=BetaConfig(), sampler="pndm", runge_kutta_start=True),
        SamplingConfig(noise=RectifiedFlow(), prediction="flow", sampler="lcm", dynamic_shift=DynamicShift()),
        SamplingConfig(
            noise=RectifiedFlow(),
            prediction="flow",
            sampler="euler",
            level_schedule="karras",
            dynamic_shift=DynamicShift(base_shift=0.7, base_tokens=100, max_tokens=900, exponential=False),
            shift_terminal=0.1,
        ),
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
        ({"_class_name": "DDIMScheduler", "thresholding": True}, "thresholding=True"),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "timestep_type='continuous'"),
        ({"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3}, "solver_order=3"),
        ({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver"}, "'dpmsolver'"),
        ({"_class_name": "UniPCMultistepScheduler", "solver_type": "bh1"}, "solver_type='bh1'"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": True}, "invert_sigmas=True"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "time_shift_type": "cubic"}, "'cubic' is unknown"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift_terminal": 1.5}, "shift_terminal=1.5"),
        ({"_class_name": "DDIMScheduler", "prediction_type": "x0"}, "prediction_type='x0' is unknown"),
        ({"_class_name": "DDIMScheduler", "timestep_spacing": "even"}, "timestep_spacing='even' is unknown"),
        ({"_class_name": "DDIMScheduler", "beta_schedule": "exp"}, "beta_schedule='exp'"),
    ],
    ids=str,
)
def test_configs_that_nothing_stands_for_are_refused(config: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_scheduler_config(config)


def test_stochastic_flow_schedulers_are_lcm() -> None:
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "stochastic_sampling": True}
    assert read_scheduler_config(config).sampler == "lcm"
    assert read_scheduler_config({"_class_name": "FlowMatchLCMScheduler"}).sampler == "lcm"


def test_options_carried_along_decide_nothing() -> None:
    """diffusers keeps the options of the scheduler before, which the one in use does not have."""
    euler = {"_class_name": "EulerDiscreteScheduler"}
    assert read_scheduler_config(euler | {"use_flow_sigmas": True, "flow_shift": 3.0, "shift": 2.0, "mu": 1.0}) == (
        read_scheduler_config(euler)
    )
    assert read_scheduler_config(FLUX_DEV | {"prediction_type": "epsilon", "timestep_spacing": "leading"}) == (
        read_scheduler_config(FLUX_DEV)
    )
    karras = read_scheduler_config({"_class_name": "EulerAncestralDiscreteScheduler", "use_karras_sigmas": True})
    assert (karras.default_schedule(), karras.default_schedule("euler")) == ("normal", "karras")


def test_an_unknown_family_or_table_is_refused() -> None:
    with pytest.raises(ValueError, match="'sd9' is unknown; there are sd1"):
        read_scheduler_config({"_class_name": "DDIMScheduler"}, family="sd9")
    with pytest.raises(ValueError, match="ays='sd3' is unknown; there are sd1, sdxl, svd"):
        SamplingConfig(noise=BetaConfig(), ays="sd3")
    with pytest.raises(ValueError, match="only a flow of shift 1 can"):
        SamplingConfig(noise=RectifiedFlow(shift=3.0), dynamic_shift=DynamicShift())
    with pytest.raises(ValueError, match="two different lengths"):
        DynamicShift(base_tokens=256, max_tokens=256)


def test_samplers_without_a_diffusers_scheduler_are_not_written() -> None:
    for sampler in ("dpmpp_2s_a", "dpmpp_3m_sde"):
        with pytest.raises(ValueError, match=f"no scheduler for sampler '{sampler}'"):
            write_scheduler_config(SamplingConfig(noise=BetaConfig(), sampler=sampler))
    with pytest.raises(ValueError, match="knows no zero terminal SNR"):
        write_scheduler_config(SamplingConfig(noise=BetaConfig(zero_terminal_snr=True), sampler="heun"))
    with pytest.raises(ValueError, match="cannot shift by picture size"):
        write_scheduler_config(SamplingConfig(noise=RectifiedFlow(), sampler="heun", dynamic_shift=DynamicShift()))
