"""diffusers' scheduler_config.json to a `SamplingConfig` and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from wordbrush.diffusion.flow_shift import DynamicShift
from wordbrush.diffusion.plan import FAMILIES, SamplingConfig
from wordbrush.diffusion.process import BetaConfig, RectifiedFlow
from wordbrush.diffusion.schedules import Family

# the last two are ours: diffusers' schedulers know no predictions of one step back
_PREDICTION_OF_TYPE = {
    "epsilon": "epsilon", "sample": "sample", "v_prediction": "v", "flow_prediction": "flow",
    "previous_sample": "previous", "sample_difference": "difference",
}  # fmt: skip
_TYPE_OF_PREDICTION = {name: kind for kind, name in _PREDICTION_OF_TYPE.items()}
_SCHEDULE_OF_SPACING = {"linspace": "normal", "leading": "ddim_uniform", "trailing": "sgm_uniform"}
_SPACING_OF_SCHEDULE = {schedule: spacing for spacing, schedule in _SCHEDULE_OF_SPACING.items()}
_SCHEDULE_OF_FLAG = {
    "use_karras_sigmas": "karras",
    "use_exponential_sigmas": "exponential",
    "use_beta_sigmas": "beta",
}


@dataclass(frozen=True, kw_only=True)
class _SchedulerClass:
    """What a diffusers scheduler class takes for granted where its config is silent."""

    sampler: str
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    clip_sample: bool = False
    flow: bool = False
    dynamic: bool = False
    """Whether the class runs flows and knows use_dynamic_shifting and shift_terminal there."""
    zero_snr: bool = False
    """Whether the class knows rescale_betas_zero_snr."""
    required: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Options with the only values that our sampler stands for; diffusers' default is the first."""


_CLASSES: dict[str, _SchedulerClass] = {
    "DDPMScheduler": _SchedulerClass(
        sampler="ddpm",
        clip_sample=True,
        zero_snr=True,
        required={"variance_type": ("fixed_small", "fixed_small_log")},
    ),
    "DDIMScheduler": _SchedulerClass(sampler="ddim", clip_sample=True, zero_snr=True),
    "PNDMScheduler": _SchedulerClass(sampler="pndm"),
    "EulerDiscreteScheduler": _SchedulerClass(
        sampler="euler", zero_snr=True, required={"interpolation_type": ("linear",), "timestep_type": ("discrete",)}
    ),
    "EulerAncestralDiscreteScheduler": _SchedulerClass(sampler="euler_a", zero_snr=True),
    "HeunDiscreteScheduler": _SchedulerClass(sampler="heun", beta_start=0.00085, beta_end=0.012),
    "KDPM2DiscreteScheduler": _SchedulerClass(sampler="dpm2", beta_start=0.00085, beta_end=0.012),
    "KDPM2AncestralDiscreteScheduler": _SchedulerClass(sampler="dpm2_a", beta_start=0.00085, beta_end=0.012),
    "LMSDiscreteScheduler": _SchedulerClass(sampler="lms"),
    "DPMSolverSDEScheduler": _SchedulerClass(sampler="dpmpp_sde", beta_start=0.00085, beta_end=0.012),
    # stands for four samplers: see `_sampler_of`
    "DPMSolverMultistepScheduler": _SchedulerClass(
        sampler="dpmpp_2m",
        dynamic=True,
        zero_snr=True,
        required={
            "euler_at_final": (False,),
            "use_lu_lambdas": (False,),
            "lower_order_final": (True,),
            "variance_type": (None,),
        },
    ),
    "UniPCMultistepScheduler": _SchedulerClass(
        sampler="unipc",
        dynamic=True,
        zero_snr=True,
        required={
            "solver_order": (2,),
            "solver_type": ("bh2", "midpoint", "heun", "logrho"),  # diffusers reads the other three as bh2
            "predict_x0": (True,),
            "lower_order_final": (True,),
            "disable_corrector": ([],),
            "solver_p": (None,),
        },
    ),
    "DEISMultistepScheduler": _SchedulerClass(
        sampler="deis",
        dynamic=True,
        required={
            "solver_order": (2,),
            "algorithm_type": ("deis", "dpmsolver", "dpmsolver++"),  # read as deis, and the solver types as logrho
            "solver_type": ("logrho", "midpoint", "heun", "bh1", "bh2"),
            "lower_order_final": (True,),
        },
    ),
    "LCMScheduler": _SchedulerClass(
        sampler="lcm",
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        zero_snr=True,
        required={"timestep_scaling": (10.0,)},
    ),
    # with stochastic_sampling this stands for lcm
    "FlowMatchEulerDiscreteScheduler": _SchedulerClass(
        sampler="euler", flow=True, dynamic=True, required={"invert_sigmas": (False,)}
    ),
    "FlowMatchHeunDiscreteScheduler": _SchedulerClass(sampler="heun", flow=True),
    "FlowMatchLCMScheduler": _SchedulerClass(
        sampler="lcm", flow=True, dynamic=True, required={"invert_sigmas": (False,), "scale_factors": (None, [])}
    ),
}

# Options that no sampler of ours stands for unless they are off, in whichever class they appear.
_OFF: dict[str, Any] = {
    "thresholding": False,
    "sigma_min": None,
    "sigma_max": None,
    "lambda_min_clipped": float("-inf"),
}

# What a model's pipeline in diffusers adds to its scheduler: FLUX has its own even spacing; the published tables of
# Align Your Steps differ.
_OF_PIPELINE: dict[str, dict[str, Any]] = {
    "sd1": {},
    "sd2": {},
    "sdxl": {"ays": "sdxl"},
    "sdxl-refiner": {"ays": "sdxl"},
    "flux-dev": {"spacing": "sgm_uniform"},
    "flux-schnell": {"spacing": "sgm_uniform"},
    "class": {},
    "embedding": {},
    "unconditional": {},
}


def read_scheduler_config(config: Mapping[str, Any], *, family: str | None = None) -> SamplingConfig:
    """What a diffusers scheduler_config.json says, as parsed from JSON, of a model of that family.

    family: a key of `_OF_PIPELINE`, "sd1", "sdxl" or "flux-dev" for instance; None is any other model. Raises
    ValueError for another family and for a scheduler class, or a value of one of its options, that no sampler of ours
    stands for. Options that a class does not have (diffusers carries them along when schedulers are exchanged) decide
    nothing there and are not looked at.
    """
    name = config.get("_class_name")
    if name not in _CLASSES:
        raise ValueError(f"scheduler class {name!r} is unknown; there are {', '.join(_CLASSES)}")
    if family is not None and family not in _OF_PIPELINE:
        raise ValueError(f"model family {family!r} is unknown; there are {', '.join(_OF_PIPELINE)}")
    known = _CLASSES[name]
    _refuse_others(name, config, known)
    flow = known.flow or (known.dynamic and bool(config.get("use_flow_sigmas", False)))
    usual = "flow_prediction" if flow else "epsilon"
    kind = usual if known.flow else config.get("prediction_type", usual)
    spacing = config.get("timestep_spacing")
    ends = config.get("final_sigmas_type")
    for option, value, options in (
        ("prediction_type", kind, _PREDICTION_OF_TYPE),
        ("timestep_spacing", spacing, {None, *_SCHEDULE_OF_SPACING}),
        ("final_sigmas_type", ends, {None, "zero", "sigma_min"}),
    ):
        if value not in options:
            raise ValueError(f"{option}={value!r} is unknown; there are {', '.join(str(o) for o in options if o)}")
    levels = [schedule for flag, schedule in _SCHEDULE_OF_FLAG.items() if config.get(flag)]
    knows_clips = known.sampler in ("ddpm", "ddim", "lcm", "heun") and not known.flow
    clips = knows_clips and config.get("clip_sample", known.clip_sample)
    shifts = {} if not (flow and known.dynamic) else _moving_shift_of(config)
    found = SamplingConfig(
        noise=_betas_of(config, known) if not flow else _flow_of(config, known, moves="dynamic_shift" in shifts),
        prediction=_PREDICTION_OF_TYPE[kind],
        sampler=_sampler_of(config, known),
        spacing=None if spacing is None or known.flow else _SCHEDULE_OF_SPACING[spacing],
        level_schedule=levels[0] if levels else None,
        steps_offset=int(config.get("steps_offset", 0)),
        set_alpha_to_one=config.get("set_alpha_to_one"),
        ends_clean=None if ends is None else ends == "zero",
        distilled_steps=int(config.get("original_inference_steps", 50)),
        clip_x0=float(config.get("clip_sample_range", 1.0)) if clips else None,
        runge_kutta_start=known.sampler == "pndm" and not config.get("skip_prk_steps", False),
        **shifts,
    )
    return found if family is None else replace(found, **_OF_PIPELINE[family])


def knows_scheduler(name: str) -> bool:
    """Whether a diffusers scheduler class of that name can be read."""
    return name in _CLASSES


def _refuse_others(name: str, config: Mapping[str, Any], known: _SchedulerClass) -> None:
    for option, values in {**{option: (off,) for option, off in _OFF.items()}, **known.required}.items():
        value = config.get(option, values[0])
        if value not in values:
            raise ValueError(f"{name} with {option}={value!r} is not supported, only {' or '.join(map(repr, values))}")


def _sampler_of(config: Mapping[str, Any], known: _SchedulerClass) -> str:
    if known.flow and config.get("stochastic_sampling"):
        return "lcm"
    if known.sampler != "dpmpp_2m":
        return known.sampler
    algorithm, order = config.get("algorithm_type", "dpmsolver++"), config.get("solver_order", 2)
    found = {
        ("dpmsolver++", 2): "dpmpp_2m",
        ("deis", 2): "dpmpp_2m",  # diffusers reads it so
        ("sde-dpmsolver++", 2): "dpmpp_2m_sde",
        ("sde-dpmsolver++", 3): "dpmpp_3m_sde",
    }.get((algorithm, order))
    solver = config.get("solver_type", "midpoint")
    if found is None or (solver == "heun" and order == 2):
        raise ValueError(
            f"DPMSolverMultistepScheduler with algorithm_type={algorithm!r}, solver_order={order}, "
            f"solver_type={solver!r} is not supported; dpmsolver++ and sde-dpmsolver++ of order 2, midpoint, are"
        )
    return found


def _betas_of(config: Mapping[str, Any], known: _SchedulerClass) -> BetaConfig:
    betas = config.get("trained_betas")
    return BetaConfig(
        num_train_timesteps=int(config.get("num_train_timesteps", 1000)) if betas is None else len(betas),
        beta_schedule=config.get("beta_schedule", known.beta_schedule),
        beta_start=float(config.get("beta_start", known.beta_start)),
        beta_end=float(config.get("beta_end", known.beta_end)),
        trained_betas=None if betas is None else tuple(float(beta) for beta in betas),
        zero_terminal_snr=bool(config.get("rescale_betas_zero_snr", False)),
    )


def _moving_shift_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a SamplingConfig that say how a flow's levels move with the picture and where they end."""
    kind, terminal = config.get("time_shift_type", "exponential"), config.get("shift_terminal")
    if kind not in ("exponential", "linear"):
        raise ValueError(f"time_shift_type={kind!r} is unknown; there are exponential, linear")
    shifts: dict[str, Any] = {"shift_terminal": float(terminal)} if terminal else {}
    if config.get("use_dynamic_shifting", False):
        shifts["dynamic_shift"] = DynamicShift(
            base_shift=float(config.get("base_shift", 0.5)),
            max_shift=float(config.get("max_shift", 1.15)),
            base_tokens=int(config.get("base_image_seq_len", 256)),
            max_tokens=int(config.get("max_image_seq_len", 4096)),
            exponential=kind == "exponential",
        )
    return shifts


def _flow_of(config: Mapping[str, Any], known: _SchedulerClass, *, moves: bool) -> RectifiedFlow:
    return RectifiedFlow(
        shift=1.0 if moves else float(config.get("shift" if known.flow else "flow_shift", 1.0)),
        num_train_timesteps=int(config.get("num_train_timesteps", 1000)),
    )


def write_scheduler_config(config: SamplingConfig) -> dict[str, Any]:
    """The scheduler_config.json with which diffusers samples as `config` says; `read_scheduler_config` inverts it.

    What the family adds to a config is not written, for diffusers' pipeline adds it too. Raises ValueError where
    diffusers has no such scheduler: none for dpmpp_2s_a, a different one for dpmpp_3m_sde.
    """
    flow = isinstance(config.noise, RectifiedFlow)
    name = _class_of(config.sampler, flow)
    written: dict[str, Any] = {"_class_name": name, "num_train_timesteps": config.noise.num_train_timesteps}
    if isinstance(config.noise, RectifiedFlow):
        if _CLASSES[name].flow:
            written["shift"] = config.noise.shift
        else:
            written |= {"use_flow_sigmas": True, "flow_shift": config.noise.shift}
        written |= _moving_shift(config, name)
    else:
        written |= {
            "beta_schedule": config.noise.beta_schedule,
            "beta_start": config.noise.beta_start,
            "beta_end": config.noise.beta_end,
            "trained_betas": None if config.noise.trained_betas is None else list(config.noise.trained_betas),
            "rescale_betas_zero_snr": config.noise.zero_terminal_snr,
            "steps_offset": config.steps_offset,
        }
        if config.noise.zero_terminal_snr and not _CLASSES[name].zero_snr:
            raise ValueError(
                f"diffusers' {name} knows no zero terminal SNR; make 'ddim' or 'euler' the model's sampler"
            )
    if not _CLASSES[name].flow:
        written["prediction_type"] = _TYPE_OF_PREDICTION[config.prediction]
    if config.sampler == "pndm":
        written["skip_prk_steps"] = not config.runge_kutta_start
    written |= _optional(config) | _solver(config.sampler)
    return written


def _moving_shift(config: SamplingConfig, name: str) -> dict[str, Any]:
    shifts: dict[str, Any] = {}
    if config.shift_terminal is not None:
        shifts["shift_terminal"] = config.shift_terminal
    if config.dynamic_shift is not None:
        shifts |= {
            "use_dynamic_shifting": True,
            "time_shift_type": "exponential" if config.dynamic_shift.exponential else "linear",
            "base_shift": config.dynamic_shift.base_shift,
            "max_shift": config.dynamic_shift.max_shift,
            "base_image_seq_len": config.dynamic_shift.base_tokens,
            "max_image_seq_len": config.dynamic_shift.max_tokens,
        }
    if shifts and not _CLASSES[name].dynamic:
        raise ValueError(f"diffusers' {name} cannot shift by picture size; make 'euler' the model's sampler")
    return shifts


def _class_of(sampler: str, flow: bool) -> str:
    if sampler == "dpmpp_2m_sde":
        return "DPMSolverMultistepScheduler"
    multistep = FAMILIES[sampler] is Family.MULTISTEP
    for name, known in _CLASSES.items():
        if known.sampler == sampler and (known.flow == flow or (flow and multistep)):
            return name
    raise ValueError(f"diffusers has no scheduler for sampler {sampler!r}{' on a flow' if flow else ''}; use 'euler'")


def _optional(config: SamplingConfig) -> dict[str, Any]:
    """What is written only where it was stated, and clip_sample, which is on in diffusers unless stated."""
    stated: dict[str, Any] = {"clip_sample": config.clip_x0 is not None}
    if config.clip_x0 is not None:
        stated["clip_sample_range"] = config.clip_x0
    if config.spacing is not None and isinstance(config.noise, BetaConfig):
        stated["timestep_spacing"] = _SPACING_OF_SCHEDULE[config.spacing]
    if config.set_alpha_to_one is not None:
        stated["set_alpha_to_one"] = config.set_alpha_to_one
    if config.ends_clean is not None:
        stated["final_sigmas_type"] = "zero" if config.ends_clean else "sigma_min"
    if config.sampler == "lcm" and isinstance(config.noise, BetaConfig):
        stated["original_inference_steps"] = config.distilled_steps
    return stated | {flag: True for flag, name in _SCHEDULE_OF_FLAG.items() if name == config.level_schedule}


def _solver(sampler: str) -> dict[str, Any]:
    """What tells samplers of one scheduler class apart."""
    options: dict[str, dict[str, Any]] = {
        "dpmpp_2m": {"algorithm_type": "dpmsolver++", "solver_order": 2},
        "dpmpp_2m_sde": {"algorithm_type": "sde-dpmsolver++", "solver_order": 2},
    }
    return options.get(sampler, {})
