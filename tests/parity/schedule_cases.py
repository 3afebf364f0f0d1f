"""Every schedule's noise levels beside those of diffusers, of k-diffusion, or of the rule that a tool publishes."""

from __future__ import annotations

import math
from typing import Any

import diffusers
import numpy as np
from tests.parity.k_diffusion import stored
from tests.parity.sampler_cases import FLOW_SCHEDULER_OF, FLUX_DEV, LATENT_BETAS, SCHEDULER_OF

from wordbrush.diffusion.plan import SamplingConfig
from wordbrush.diffusion.process import BetaConfig, DiscreteVP
from wordbrush.diffusion.scheduler_config import read_scheduler_config
from wordbrush.diffusion.schedules import schedule_times

SPACING_OF = {"normal": "linspace", "ddim_uniform": "leading", "sgm_uniform": "trailing"}
SD = SamplingConfig(noise=BetaConfig(), steps_offset=1)


def schedule_error(schedule: str, sampler: str, steps: int) -> float:
    """The largest relative difference of sigma / alpha from diffusers' scheduler for that sampler."""
    options = {"timestep_spacing": SPACING_OF[schedule]} if schedule in SPACING_OF else {f"use_{schedule}_sigmas": True}
    scheduler = getattr(diffusers, SCHEDULER_OF[sampler])(**LATENT_BETAS, steps_offset=1, **options)
    scheduler.set_timesteps(steps)
    return _difference(SD, [*_distinct(scheduler)], SD.plan(steps, sampler=sampler, schedule=schedule).times)


def flow_schedule_error(schedule: str, sampler: str, steps: int, tokens: int | None) -> float:
    """The largest difference of sigma from diffusers' scheduler, set as SD 3's pipeline does or (tokens) as FLUX's."""
    flags = {} if schedule in SPACING_OF else {f"use_{schedule}_sigmas": True}
    options: dict[str, Any] = {"shift": 3.0} if tokens is None else FLUX_DEV
    scheduler = getattr(diffusers, FLOW_SCHEDULER_OF[sampler])(**options, **flags)
    config = {"_class_name": FLOW_SCHEDULER_OF[sampler], **options, **flags}
    if tokens is None:
        scheduler.set_timesteps(steps)
        sampling = read_scheduler_config(config)
    else:
        mu = 0.5 + (tokens - 256) * (1.15 - 0.5) / (4096 - 256)
        if schedule == "normal":
            scheduler.set_timesteps(steps, mu=mu)
        else:
            scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
        sampling = read_scheduler_config(config, family="flux-dev")
    times = sampling.plan(steps, sampler=sampler, schedule=schedule, tokens=tokens).times
    found = [sampling.process.sigma(t) for t in times[:-1]]
    return float(np.abs(np.asarray(found) - np.asarray(_distinct(scheduler))).max())


def k_diffusion_schedule_error(schedule: str) -> float:
    """The largest relative difference from get_sigmas_karras or get_sigmas_exponential over the process's range."""
    process = DiscreteVP([_alpha_bar(level) for level in np.geomspace(0.03, 14.6, 1000)])
    found = [process.level(t) for t in schedule_times(schedule, process, {"karras": 10, "exponential": 17}[schedule])]
    levels = [level for level in stored()["levels"][schedule] if level > 0.0]
    return float(max(abs(a / b - 1.0) for a, b in zip(found[: len(levels)], levels, strict=True)))


def simple_error(steps: int) -> float:
    """From ComfyUI's rule for "simple": of the 1000 levels the last, and on in strides of 1000 / steps rounded down."""
    levels = [SD.process.level((k + 1) / 1000) for k in range(1000)]
    theirs = [levels[999 - int(i * 1000 / steps)] for i in range(steps)]
    return _difference(SD, theirs, SD.plan(steps, sampler="euler", schedule="simple").times)


def ays_error(table: str) -> float:
    """In timesteps, from the list of ten that the authors publish beside their levels, rounded to whole ones."""
    name = {"sd1": "StableDiffusionTimesteps", "sdxl": "StableDiffusionXLTimesteps"}[table]
    published = diffusers.schedulers.AysSchedules[name]
    plan = SamplingConfig(noise=BetaConfig(), ays=table).plan(10, sampler="euler", schedule="ays")
    return max(abs(plan.timestep(t) - k) for t, k in zip(plan.times[:-1], published, strict=True))


def _alpha_bar(level: float) -> float:
    return 1.0 / (1.0 + level**2)


def _distinct(scheduler: Any) -> list[float]:
    """The levels at which steps begin; schedulers that call the network twice list each but the first twice."""
    sigmas = [float(sigma) for sigma in scheduler.sigmas]
    return [sigma for i, sigma in enumerate(sigmas[:-1]) if i == 0 or not math.isclose(sigma, sigmas[i - 1])]


def _difference(sampling: SamplingConfig, theirs: list[float], times: tuple[float, ...]) -> float:
    ours = [sampling.process.level(t) for t in times[:-1]]
    return float(max(abs(a / b - 1.0) for a, b in zip(ours, theirs, strict=True)))
