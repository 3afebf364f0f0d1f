"""The keys of a recipe's `scheduler`: diffusers' own, and each where it says something."""

from __future__ import annotations

from typing import Any

from wordbrush.diffusion.process import RectifiedFlow
from wordbrush.diffusion.scheduler_config import knows_scheduler, read_scheduler_config
from wordbrush.training.mistakes import nearest

OF_FLOWS = frozenset((
    "base_image_seq_len", "base_shift", "invert_sigmas", "max_image_seq_len", "max_shift", "num_train_timesteps",
    "scale_factors", "shift", "shift_terminal", "stochastic_sampling", "time_shift_type", "upscale_mode",
    "use_beta_sigmas", "use_dynamic_shifting", "use_exponential_sigmas", "use_karras_sigmas",
))  # fmt: skip
"""What diffusers' flow schedulers take."""

OF_BETAS = frozenset((
    "algorithm_type", "beta_end", "beta_schedule", "beta_start", "clip_sample", "clip_sample_range",
    "disable_corrector", "dynamic_thresholding_ratio", "euler_at_final", "final_sigmas_type", "flow_shift",
    "interpolation_type", "lambda_min_clipped", "lower_order_final", "noise_sampler_seed", "num_train_timesteps",
    "original_inference_steps", "predict_x0", "prediction_type", "rescale_betas_zero_snr", "sample_max_value",
    "set_alpha_to_one", "shift_terminal", "sigma_max", "sigma_min", "skip_prk_steps", "solver_order", "solver_p",
    "solver_type", "steps_offset", "thresholding", "time_shift_type", "timestep_scaling", "timestep_spacing",
    "timestep_type", "trained_betas", "use_beta_sigmas", "use_dynamic_shifting", "use_exponential_sigmas",
    "use_flow_sigmas", "use_karras_sigmas", "use_lu_lambdas", "variance_type",
))  # fmt: skip
"""What its other schedulers take, one or another of them."""

_ALL = OF_FLOWS | OF_BETAS
_OF_FILES = {"_class_name", "_diffusers_version"}
# What the others read, too, once they use flow sigmas.
_SHIFTS = {"base_image_seq_len", "base_shift", "max_image_seq_len", "max_shift"}


def checked_scheduler(scheduler: dict[str, Any]) -> dict[str, Any]:
    """The config with the paper's name of a schedule as diffusers spells it.

    Raises ValueError for keys that are unknown, or contradict the scheduler's kind. A key of another class of the same
    kind is let pass: diffusers itself carries those along when schedulers are exchanged.
    """
    name = str(scheduler.get("_class_name"))
    known = _known(name, flow_sigmas=bool(scheduler.get("use_flow_sigmas")))
    for key in sorted(scheduler.keys() - known - _OF_FILES):
        if key not in _ALL:
            raise ValueError(f"{key} is not a key that is known; {_meant(key, known)}")
        if key == "prediction_type" and scheduler[key] == "flow_prediction":
            continue
        if key in OF_BETAS:
            raise ValueError(f"{key}={scheduler[key]!r} contradicts {name}, a flow, which has no such; leave it out")
        raise ValueError(
            f"{key} is a flow's, and {name} is none; leave it out, or take FlowMatchEulerDiscreteScheduler"
        )
    if scheduler.get("beta_schedule") == "cosine":
        return scheduler | {"beta_schedule": "squaredcos_cap_v2"}
    return scheduler


def _known(name: str, *, flow_sigmas: bool) -> frozenset[str]:
    """The keys of a scheduler class of that name; all, where there is none."""
    if not knows_scheduler(name):
        return _ALL
    if isinstance(read_scheduler_config({"_class_name": name}).noise, RectifiedFlow):
        return OF_FLOWS
    return OF_BETAS | _SHIFTS if flow_sigmas else OF_BETAS


def _meant(key: str, known: frozenset[str]) -> str:
    """The end of a sentence about an unknown key; half a name, as "zero_snr", means the one that holds it."""
    whole = [name for name in known if key in name]
    return f"did you mean {whole[0]}?" if len(whole) == 1 else nearest(key, sorted(known | _OF_FILES))
