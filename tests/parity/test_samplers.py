"""Every sampler, schedule and prediction type against diffusers' schedulers or k-diffusion's formulas."""

from __future__ import annotations

import diffusers
import pytest
import torch
from tests.diffusion.gaussian import PROCESSES
from tests.parity.k_diffusion import FUNCTIONS, STRAIGHT, k_diffusion_error
from tests.parity.sampler_cases import (
    FLOW_SCHEDULER_OF,
    FLUX_DEV,
    KNOWN_DIFFERENCES,
    LATENT_BETAS,
    SCHEDULER_OF,
    Case,
    case_of,
    flow_case_of,
    max_error,
)

from wordbrush.diffusion.plan import FAMILIES, SamplingConfig
from wordbrush.diffusion.process import BetaConfig
from wordbrush.diffusion.samplers import SAMPLERS
from wordbrush.diffusion.scheduler_config import read_scheduler_config, write_scheduler_config
from wordbrush.diffusion.schedules import Family

pytestmark = pytest.mark.filterwarnings("ignore")

TOLERANCE = 1e-4
KARRAS_LIKE = [name for name in SCHEDULER_OF if FAMILIES[name] in (Family.KARRAS, Family.MULTISTEP)]
ZERO_SNR = ["ddim", "euler", "euler_a", "dpmpp_2m", "dpmpp_2m_sde", "unipc", "lcm"]
# diffusers finds the level below t_next as a difference of two nearly equal float32 squares in these
ROUGHER = {"dpm2_a": 5e-4, "dpmpp_sde": 5e-4}
STRIDING = ("ddim", "pndm")  # see KNOWN_DIFFERENCES


def agrees(case: Case, sampler: str) -> bool:
    error = max_error(case)
    limit = ROUGHER.get(sampler, TOLERANCE)
    if case.options.get("use_exponential_sigmas") and FAMILIES[sampler] is Family.MULTISTEP:
        limit = 5e-4  # exp(log(sigma)) falls just short of timestep 999 in diffusers, which then says 998
    print(f"{case}: largest difference {error:.1e}, limit {limit:.0e}")
    return error < limit


def test_every_sampler_has_a_reference() -> None:
    assert {*SCHEDULER_OF, *FUNCTIONS} == set(SAMPLERS)


@pytest.mark.parametrize("steps", [4, 20])
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing", None])
@pytest.mark.parametrize("sampler", SCHEDULER_OF)
def test_spacings(sampler: str, spacing: str | None, steps: int) -> None:
    if sampler in STRIDING and spacing == "linspace":
        pytest.skip("diffusers does not land where it says: measured in test_known_differences")
    options = {} if spacing is None else {"timestep_spacing": spacing}
    assert agrees(case_of(sampler, steps=steps, steps_offset=1, **options), sampler)


@pytest.mark.parametrize("steps", [7, 30])
@pytest.mark.parametrize("sampler", [name for name in SCHEDULER_OF if name not in STRIDING])
def test_steps_that_do_not_divide_the_timesteps(sampler: str, steps: int) -> None:
    assert agrees(case_of(sampler, steps=steps, timestep_spacing="trailing"), sampler)


@pytest.mark.parametrize("steps", [10, 20])
@pytest.mark.parametrize("flag", ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"])
@pytest.mark.parametrize("sampler", [name for name in KARRAS_LIKE if name != "euler_a"])
def test_level_schedules(sampler: str, flag: str, steps: int) -> None:
    if (sampler, flag) == ("dpm2_a", "use_karras_sigmas"):
        pytest.skip("diffusers rounds half the timesteps: measured in test_known_differences")
    assert agrees(case_of(sampler, steps=steps, **{flag: True}), sampler)


@pytest.mark.parametrize("sampler", ["euler", "heun", "lms", "dpm2"])
def test_level_schedules_fill_the_range_of_the_spacing(sampler: str) -> None:
    assert agrees(case_of(sampler, use_karras_sigmas=True, timestep_spacing="trailing"), sampler)


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
@pytest.mark.parametrize("sampler", SCHEDULER_OF)
def test_prediction_types(sampler: str, kind: str) -> None:
    lacking = {"euler_a", "dpm2", "dpm2_a", "dpmpp_sde", "pndm"} if kind == "sample" else {"pndm"}
    if sampler in lacking:
        pytest.skip(f"diffusers' {SCHEDULER_OF[sampler]} has no {kind}, or another meaning of it")
    assert agrees(case_of(sampler, prediction_type=kind), sampler)


@pytest.mark.parametrize("steps", [10, 20])
@pytest.mark.parametrize("sampler", ZERO_SNR)
def test_zero_terminal_snr(sampler: str, steps: int) -> None:
    options = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    assert agrees(case_of(sampler, steps=steps, timestep_spacing="trailing", **options), sampler)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "dpmpp_2m_sde", "unipc"])
def test_zero_terminal_snr_with_karras(sampler: str) -> None:
    options = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "use_karras_sigmas": True}
    assert agrees(case_of(sampler, **options), sampler)


@pytest.mark.parametrize("steps", [10, 20])
@pytest.mark.parametrize("options", [{}, {"timestep_spacing": "trailing"}, {"use_karras_sigmas": True}], ids=str)
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "dpmpp_2m_sde", "unipc"])
def test_ends_at_the_first_training_time(sampler: str, options: dict[str, object], steps: int) -> None:
    assert agrees(case_of(sampler, steps=steps, final_sigmas_type="sigma_min", **options), sampler)


@pytest.mark.parametrize("to_one", [True, False])
@pytest.mark.parametrize("sampler", ["ddim", "pndm"])
def test_set_alpha_to_one(sampler: str, to_one: bool) -> None:
    assert agrees(case_of(sampler, set_alpha_to_one=to_one, steps_offset=1), sampler)


@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpmpp_2m"])
def test_beta_schedules(sampler: str, schedule: str) -> None:
    case = case_of(sampler, beta_schedule=schedule, beta_start=0.0001, beta_end=0.02)
    error = max_error(case)
    # the cosine schedule ends at alpha^2 = 2e-9, which float32 in diffusers holds to four digits
    assert error < (1e-3 if schedule == "squaredcos_cap_v2" else TOLERANCE)


@pytest.mark.parametrize("timesteps", [(999, 759, 499, 259, 19), (900, 400, 0)])
@pytest.mark.parametrize("sampler", ["ddpm", "euler", "heun", "dpmpp_2m", "dpmpp_2m_sde", "lcm"])
def test_timesteps_in_place_of_a_schedule(sampler: str, timesteps: tuple[int, ...]) -> None:
    if sampler == "lcm" and 0 in timesteps:
        pytest.skip("an LCM is the identity at timestep 0, where it is never run")
    assert agrees(case_of(sampler, timesteps=timesteps), sampler)


@pytest.mark.parametrize("limit", [0.5, 1.0])
@pytest.mark.parametrize("sampler", ["ddpm", "lcm"])
def test_clipped_estimates(sampler: str, limit: float) -> None:
    assert agrees(case_of(sampler, clip_sample=True, clip_sample_range=limit), sampler)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize("sampler", ["euler", "euler_a", "ddim", "dpmpp_2m", "lcm"])
def test_turbo_and_lightning_take_few_trailing_steps(sampler: str, steps: int) -> None:
    assert agrees(case_of(sampler, steps=steps, timestep_spacing="trailing"), sampler)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 8, 50])
def test_lcm_steps_are_a_subset_of_those_distilled_on(steps: int) -> None:
    assert agrees(case_of("lcm", steps=steps), "lcm")
    assert steps == 50 or agrees(case_of("lcm", steps=steps, original_inference_steps=30), "lcm")


@pytest.mark.parametrize("steps", [10, 20])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_pndm_with_its_runge_kutta_start(kind: str, steps: int) -> None:
    case = case_of("pndm", steps=steps, skip_prk_steps=False, steps_offset=1, set_alpha_to_one=False)
    assert agrees(case, "pndm")


@pytest.mark.parametrize("steps", [2, 4, 20])
@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("sampler", FLOW_SCHEDULER_OF)
def test_flow_schedulers(sampler: str, shift: float, steps: int) -> None:
    # DEIS takes the logarithm of 1 - sigma, a difference of float32 numbers near 1
    limit = 1e-3 if sampler == "deis" else TOLERANCE
    assert max_error(flow_case_of(sampler, steps=steps, shift=shift)) < limit


@pytest.mark.parametrize("tokens", [256, 4096])
@pytest.mark.parametrize("steps", [4, 20])
@pytest.mark.parametrize("sampler", ["euler", "lcm", "dpmpp_2m", "dpmpp_2m_sde", "unipc"])
def test_flux_dev(sampler: str, steps: int, tokens: int) -> None:
    """As FluxPipeline sets the schedule, by the size of the picture."""
    assert max_error(flow_case_of(sampler, steps=steps, tokens=tokens, **FLUX_DEV)) < TOLERANCE


@pytest.mark.parametrize("sampler", ["euler", "lcm"])
def test_flux_schnell(sampler: str) -> None:
    assert max_error(flow_case_of(sampler, steps=4, tokens=4096, shift=1.0)) < TOLERANCE


@pytest.mark.parametrize("options", [{"stochastic_sampling": True}, {"stochastic_sampling": True, **FLUX_DEV}], ids=len)
def test_a_stochastic_flow_scheduler_is_lcm(options: dict[str, object]) -> None:
    tokens = 1024 if "use_dynamic_shifting" in options else None
    assert max_error(flow_case_of("euler", tokens=tokens, **options)) < TOLERANCE


@pytest.mark.parametrize("flag", ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"])
@pytest.mark.parametrize("tokens", [None, 4096])
@pytest.mark.parametrize("sampler", ["euler", "lcm"])
def test_flow_level_schedules(sampler: str, tokens: int | None, flag: str) -> None:
    options = {"shift": 3.0} if tokens is None else FLUX_DEV
    assert max_error(flow_case_of(sampler, tokens=tokens, **options, **{flag: True})) < TOLERANCE


@pytest.mark.parametrize("steps", [4, 10])
@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_shifts_with_a_terminal_level(kind: str, steps: int) -> None:
    options = {"use_dynamic_shifting": True, "time_shift_type": kind, "shift_terminal": 0.1, "base_shift": 0.95}
    assert max_error(flow_case_of("euler", steps=steps, tokens=900, max_shift=2.05, **options)) < TOLERANCE


@pytest.mark.parametrize("prediction", ["epsilon", "v", "sample", "flow"])
@pytest.mark.parametrize("levels", ["karras", "exponential"])
@pytest.mark.parametrize("sampler", FUNCTIONS)
def test_k_diffusion(sampler: str, levels: str, prediction: str) -> None:
    assert k_diffusion_error(sampler, levels, PROCESSES["vp"], prediction) < 1e-10
    if sampler not in STRAIGHT[1:]:
        assert k_diffusion_error(sampler, levels, PROCESSES["flow_shifted"], prediction) < 1e-10


@pytest.mark.parametrize("prediction", ["v", "sample", "flow"])
@pytest.mark.parametrize("sampler", STRAIGHT)
def test_k_diffusion_in_x_itself_on_a_flow(sampler: str, prediction: str) -> None:
    assert k_diffusion_error(sampler, "flow", PROCESSES["flow"], prediction) < 2e-6


@pytest.mark.parametrize("options", [{}, {"timestep_spacing": "trailing"}, {"use_karras_sigmas": True}], ids=str)
@pytest.mark.parametrize("sampler", ["heun", "dpm2", "dpm2_a", "pndm"])
def test_the_list_of_a_scheduler_that_calls_twice_is_the_same_run(sampler: str, options: dict[str, object]) -> None:
    if sampler == "pndm":
        options = {"skip_prk_steps": not options, "steps_offset": 1}
    config = case_of(sampler, **options).config
    scheduler = getattr(diffusers, SCHEDULER_OF[sampler]).from_config(config)
    sampling = read_scheduler_config(config)
    for steps in (5, 10, 20):
        scheduler.set_timesteps(steps)
        plan = sampling.plan(timesteps=scheduler.timesteps.tolist())
        told = sampling.plan(steps)
        assert len(plan.times) == steps + 1
        assert [plan.timestep(t) for t in plan.times[:-1]] == pytest.approx(
            [told.timestep(t) for t in told.times[:-1]], abs=2e-3
        )


@pytest.mark.parametrize("why", KNOWN_DIFFERENCES)
def test_known_differences_are_there_still(why: str) -> None:
    """So that docs/samplers.md does not outlive a repair in diffusers."""
    assert max_error(KNOWN_DIFFERENCES[why]) > TOLERANCE


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_alphas_of_beta_schedules(name: str, zero_snr: bool) -> None:
    theirs = diffusers.DDPMScheduler(beta_schedule=name, rescale_betas_zero_snr=zero_snr).alphas_cumprod.double()
    config = BetaConfig(beta_schedule=name, beta_start=0.0001, beta_end=0.02, zero_terminal_snr=zero_snr)
    ours = torch.from_numpy(config.alphas_cumprod())
    assert torch.allclose(ours, theirs, rtol=3e-4, atol=1e-7)


@pytest.mark.parametrize(
    "config",
    [
        SamplingConfig(noise=BetaConfig(), sampler=name, steps_offset=1)
        for name in SCHEDULER_OF
        if name != "dpmpp_sde"  # wants torchsde
    ]
    + [
        SamplingConfig(
            noise=BetaConfig(zero_terminal_snr=True), prediction="v", sampler="dpmpp_2m", level_schedule="karras"
        ),
        SamplingConfig(noise=BetaConfig(), sampler="ddim", set_alpha_to_one=False, spacing="sgm_uniform"),
    ],
    ids=lambda config: f"{config.sampler}-{config.level_schedule}",
)
def test_what_we_write_diffusers_reads_alike(config: SamplingConfig) -> None:
    written = write_scheduler_config(config)
    scheduler = getattr(diffusers, written["_class_name"]).from_config(written)
    completed = {"_class_name": written["_class_name"], **scheduler.config}
    completed = {name: value for name, value in completed.items() if not name.startswith("_") or name == "_class_name"}
    again = read_scheduler_config(completed)
    assert again.noise == config.noise
    assert (again.sampler, again.prediction) == (config.sampler, config.prediction)
    assert again.plan(20) == config.plan(20) or (
        again.plan(20).times == config.plan(20).times and again.plan(20).told == config.plan(20).told
    )


def test_stable_diffusion_s_own_config() -> None:
    config = {
        "_class_name": "PNDMScheduler",
        "_diffusers_version": "0.6.0",
        **LATENT_BETAS,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
    }
    assert max_error(Case(scheduler="PNDMScheduler", options=config, steps=20)) < TOLERANCE
    sampling = read_scheduler_config(config)
    # the same file, another sampler: what DPMSolverMultistepScheduler.from_config(pipe.scheduler.config) takes from it
    assert sampling.default_schedule("dpmpp_2m") == "normal"
    assert sampling.default_schedule("ddim") == "ddim_uniform"
    assert sampling.plan(20, sampler="dpmpp_2m").times[-1] == 0.0
    assert sampling.plan(20).times[-1] == sampling.process.first_time
