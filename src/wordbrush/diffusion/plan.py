"""The plan of a run: which times it stops at, and what diffusers' schedulers tie to that choice.

What diffusers keeps in one scheduler class (noise, prediction type, spacing of timesteps, how the last step ends, what
the network is told, how large the starting noise is) is taken apart here, so that `SamplingConfig.plan` gives with a
sampler what StableDiffusionPipeline gives with the scheduler class that the sampler stands for.

Known differences: diffusers' DDIM and PNDM with linspace spacing, or with trailing spacing and a number of steps that
does not divide 1000, do not land on the timestep that they then tell the network (they stride by 1000 // steps whatever
their list says); DEIS on a flow stops before the noise is gone; PNDM with v-prediction extrapolates v, not eps; one
term of the third-order SDE solver has the wrong sign. docs/samplers.md has the figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from wordbrush.diffusion.process import BetaConfig, DiscreteVP, Process, RectifiedFlow
from wordbrush.diffusion.samplers import get_sampler
from wordbrush.diffusion.schedules import SPACINGS, Family, Grid, get_schedule, schedule_times

FAMILIES: dict[str, Family] = {
    **dict.fromkeys(("ddpm", "ddim", "pndm"), Family.ANCESTRAL),
    **dict.fromkeys(("dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m_sde", "unipc", "deis"), Family.MULTISTEP),
    **dict.fromkeys(("euler", "euler_a", "heun", "dpm2", "dpm2_a", "lms"), Family.KARRAS),
    **dict.fromkeys(("dpmpp_sde", "dpmpp_2s_a"), Family.KARRAS),
    "lcm": Family.CONSISTENCY,
}

_DEFAULT_SCHEDULE = {
    Family.ANCESTRAL: "ddim_uniform",
    Family.KARRAS: "normal",
    Family.MULTISTEP: "normal",
    Family.CONSISTENCY: "sgm_uniform",
}


@dataclass(frozen=True, kw_only=True)
class TimePlan:
    """The times of one run, and what else depends on them."""

    times: tuple[float, ...]
    """Falling, steps + 1 of them."""
    start_scale: float
    """Unit noise times this is x at times[0]."""
    told: Mapping[float, float]
    """What the network is told at some of the times, where that differs from the process's own timestep."""
    process: Process

    def timestep(self, t: float) -> float:
        """What the network is told at t."""
        found = self.told.get(t)
        return self.process.timestep(t) if found is None else found


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """A model's noise process and its own way to be sampled, as its scheduler_config.json states them.

    None means "not stated": diffusers then takes the default of whichever scheduler class is used, and so do we.
    """

    noise: BetaConfig | RectifiedFlow
    prediction: str = "epsilon"
    sampler: str = "ddim"
    spacing: str | None = None
    """Stated timestep_spacing, as a schedule name: normal, ddim_uniform or sgm_uniform."""
    level_schedule: str | None = None
    """karras, exponential or beta where the config asks for one."""
    steps_offset: int = 0
    set_alpha_to_one: bool | None = None
    """Whether ddim and pndm end at t = 0 rather than at the first training time."""
    ends_clean: bool | None = None
    """final_sigmas_type == "zero": whether euler, dpmpp_2m, dpmpp_2m_sde and unipc end at t = 0."""
    distilled_steps: int = 50
    clip_x0: float | None = None
    """Clean estimates are clipped to within +- this: pixel-space ddpm and ddim models."""

    def __post_init__(self) -> None:
        get_sampler(self.sampler)
        for name in (self.spacing, self.level_schedule):
            if name is not None:
                get_schedule(name)

    @cached_property
    def process(self) -> Process:
        """The noise process."""
        return DiscreteVP.from_betas(self.noise) if isinstance(self.noise, BetaConfig) else self.noise

    def default_schedule(self, sampler: str | None = None) -> str:
        """The schedule that diffusers would use with this config and the sampler's scheduler class."""
        family = FAMILIES[self.sampler if sampler is None else sampler]
        if self.level_schedule is not None and family in (Family.KARRAS, Family.MULTISTEP):
            return self.level_schedule
        if family is Family.CONSISTENCY or self.spacing is None:
            return _DEFAULT_SCHEDULE[family]
        return self.spacing

    def plan(
        self,
        steps: int | None = None,
        *,
        sampler: str | None = None,
        schedule: str | None = None,
        timesteps: Sequence[float] | None = None,
    ) -> TimePlan:
        """The times of a run of `steps` steps, or through the given training timesteps instead.

        timesteps: falling, within the model's range (0…999, or 1000 * sigma of a flow). Raises ValueError for unknown
        names, for steps and timesteps that the model does not have, and unless exactly one of the two is given.
        """
        name = self.sampler if sampler is None else sampler
        get_sampler(name)
        if (steps is None) == (timesteps is None):
            raise ValueError(f"give either steps or timesteps, not steps={steps} with timesteps={timesteps}")
        if timesteps is not None:
            if len(timesteps) == 0:
                raise ValueError("timesteps=[] holds no step; give at least one training timestep")
            if schedule is not None:
                raise ValueError(f"timesteps take the place of a schedule; leave out schedule={schedule!r}")
            return self._plan(name, None, [*self._times_of(timesteps), self._end(name)])
        assert steps is not None
        chosen = self.default_schedule(name) if schedule is None else schedule
        grid = Grid(
            family=FAMILIES[name],
            spacing=self._spacing(chosen),
            steps_offset=self.steps_offset,
            distilled_steps=self.distilled_steps,
            from_pure_noise=name == "unipc",
        )
        return self._plan(name, chosen, schedule_times(chosen, self.process, steps, grid, self._end(name)))

    def _spacing(self, schedule: str | None) -> str:
        """timestep_spacing as diffusers' config would have it for that schedule."""
        return schedule if schedule in SPACINGS else self.spacing or "normal"

    def _times_of(self, timesteps: Sequence[float]) -> list[float]:
        """diffusers' lists repeat a timestep at which the network is called twice; that is one time here."""
        found = [timestep for i, timestep in enumerate(timesteps) if i == 0 or timestep != timesteps[i - 1]]
        highest = self.noise.num_train_timesteps - (1 if isinstance(self.noise, BetaConfig) else 0)
        for before, after in zip([highest + 1.0, *found], found, strict=False):
            if not (0 <= after < before and after <= highest):
                raise ValueError(f"timesteps must fall within {highest} to 0, but {after} follows {before}")
        if isinstance(self.process, DiscreteVP):
            return [self.process.time_of_timestep(timestep) for timestep in found]
        return [self.process.time_of_level(timestep / self.noise.num_train_timesteps) for timestep in found]

    def _end(self, sampler: str) -> float:
        """t = 0, or the first training time where the sampler's scheduler class would stop there."""
        if not isinstance(self.noise, BetaConfig):
            return 0.0
        if sampler in ("euler", "dpmpp_2m", "dpmpp_2m_sde", "unipc"):
            clean = self.ends_clean is not False
        else:
            rule = {"ddim": self.set_alpha_to_one is not False, "pndm": self.set_alpha_to_one is True, "deis": False}
            clean = rule.get(sampler, True)
        return 0.0 if clean else self.process.first_time

    def _plan(self, sampler: str, schedule: str | None, times: Sequence[float]) -> TimePlan:
        kept = (*(max(t, times[-1]) for t in times[:-1]), times[-1])  # a schedule may reach the end but for rounding
        told = {t: self._told(sampler, schedule, t) for t in kept[:-1]}
        alpha, sigma = self.process.alpha(kept[0]), self.process.sigma(kept[0])
        # k-diffusion starts from sigma * noise, without the trace of signal that x has at t; the others from noise of
        # x's full size. diffusers' schedulers of the karras family do the first unless the spacing is leading.
        bare = FAMILIES[sampler] is Family.KARRAS and self._spacing(schedule) != "ddim_uniform"
        flow = isinstance(self.noise, RectifiedFlow)
        scale = 1.0 if flow else sigma if bare else math.hypot(alpha, sigma)
        return TimePlan(times=kept, start_scale=scale, told=told, process=self.process)

    def _told(self, sampler: str, schedule: str | None, t: float) -> float:
        """diffusers rounds the timestep that some schedulers tell the network while keeping the exact noise level."""
        timestep = self.process.timestep(t)
        multistep = FAMILIES[sampler] is Family.MULTISTEP
        if isinstance(self.noise, RectifiedFlow):
            return (
                float(min(math.floor(timestep + 1e-6), self.noise.num_train_timesteps - 1)) if multistep else timestep
            )
        if schedule == "karras" and (multistep or sampler in ("dpm2", "dpm2_a")):
            return float(round(timestep))
        if schedule in ("exponential", "beta") and multistep:
            return float(math.floor(timestep + 1e-6))
        return timestep
