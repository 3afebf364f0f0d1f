"""The plan of a run: which times it stops at, and what diffusers' schedulers tie to that choice.

What diffusers keeps in one scheduler class (noise, prediction type, spacing of timesteps, how the last step ends, what
the network is told, how large the starting noise is) is taken apart here, so that `SamplingConfig.plan` gives with a
sampler what StableDiffusionPipeline gives with the scheduler class that the sampler stands for.

A model whose noise is shifted by picture size (`SamplingConfig.dynamic_shift`, FLUX.1 dev) needs to know the size:
pass `plan(..., tokens=n)`, n being the image tokens that the network sees, (width / 16) * (height / 16) for FLUX.
Other models ignore it, so it can always be passed. The noise process is the same at every size; only the times move.
A run is `plan.sampler(denoiser, noise * plan.start_scale, plan.times, plan.process, noise_source)`.

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

from wordbrush.diffusion.flow_shift import DynamicShift
from wordbrush.diffusion.process import BetaConfig, DiscreteVP, Process, RectifiedFlow
from wordbrush.diffusion.samplers import Sampler, get_sampler
from wordbrush.diffusion.samplers.multistep import pndm_runge_kutta
from wordbrush.diffusion.schedules import AYS_LEVELS, SPACINGS, Family, Grid, get_schedule, schedule_times
from wordbrush.diffusion.timestep_lists import step_timesteps

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
    sampler: Sampler
    """The sampler asked for, in the model's own variant of it."""

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
    """Stated timestep_spacing, as a schedule name: normal, ddim_uniform or sgm_uniform. FLUX's pipeline states the last
    for its flow, whose schedulers do not."""
    level_schedule: str | None = None
    """karras, exponential or beta where the config asks for one."""
    steps_offset: int = 0
    set_alpha_to_one: bool | None = None
    """Whether ddim and pndm end at t = 0 rather than at the first training time."""
    ends_clean: bool | None = None
    """final_sigmas_type == "zero": whether euler, dpmpp_2m, dpmpp_2m_sde and unipc end at t = 0."""
    distilled_steps: int = 50
    runge_kutta_start: bool = False
    """Whether pndm takes its first three steps by Runge-Kutta (skip_prk_steps false), as its paper does."""
    ays: str = "sd1"
    """The table of Align Your Steps: sd1, sdxl or svd."""
    clip_x0: float | None = None
    """Clean estimates are clipped to within +- this: pixel-space ddpm and ddim models."""
    dynamic_shift: DynamicShift | None = None
    """How a flow is shifted by the size of the picture, in place of a shift of its own."""
    shift_terminal: float | None = None
    """The level at which a flow's last step begins; its levels are stretched to end there."""

    def __post_init__(self) -> None:
        get_sampler(self.sampler)
        if self.dynamic_shift is not None and self.noise != RectifiedFlow(
            num_train_timesteps=self.noise.num_train_timesteps
        ):
            raise ValueError(f"noise={self.noise} cannot be shifted by picture size, only a flow of shift 1 can")
        if self.shift_terminal is not None and not 0.0 < self.shift_terminal < 1.0:
            raise ValueError(f"shift_terminal={self.shift_terminal} is outside 0 to 1; leave it out for none")
        for name in (self.spacing, self.level_schedule):
            if name is not None:
                get_schedule(name)
        if self.ays not in AYS_LEVELS:
            raise ValueError(f"ays={self.ays!r} is unknown; there are {', '.join(AYS_LEVELS)}")

    @cached_property
    def process(self) -> Process:
        """The noise process."""
        return DiscreteVP.from_betas(self.noise) if isinstance(self.noise, BetaConfig) else self.noise

    def default_schedule(self, sampler: str | None = None) -> str:
        """The schedule that diffusers would use with this config and the sampler's scheduler class."""
        name = self.sampler if sampler is None else sampler
        family = FAMILIES[name]
        flow = isinstance(self.noise, RectifiedFlow)
        knows = name != "heun" if flow else name != "euler_a" and family in (Family.KARRAS, Family.MULTISTEP)
        if self.level_schedule is not None and knows:
            return self.level_schedule
        if flow:  # diffusers' multistep schedulers ignore the spacing on a flow, the others have but one way
            return "normal" if family is Family.MULTISTEP or self.spacing is None else self.spacing
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
        tokens: int | None = None,
    ) -> TimePlan:
        """The times of a run of `steps` steps, or through the given training timesteps instead.

        timesteps: falling, within the model's range (0…999, or 1000 * sigma of a flow); or the list of a diffusers
        scheduler, which names every call of the network (`timestep_lists`).
        tokens: how many image tokens the network sees; needed with `dynamic_shift` unless timesteps are given, which
        are where they are whatever the size.

        Raises ValueError for unknown names, for steps and timesteps that the model does not have, unless exactly one
        of the two is given, and where tokens are needed and missing.
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
            return self._plan(name, None, [*self._times_of(name, timesteps), self._end(name)])
        assert steps is not None
        chosen = self.default_schedule(name) if schedule is None else schedule
        grid = Grid(
            family=FAMILIES[name],
            spacing=self._spacing(chosen),
            steps_offset=self.steps_offset,
            distilled_steps=self.distilled_steps,
            from_pure_noise=name == "unipc",
            shifted_twice=self.dynamic_shift is None,
            terminal=self.shift_terminal,
            ays=self.ays,
        )
        shifted = self._shifted(tokens)
        times = schedule_times(chosen, shifted, steps, grid, self._end(name))
        if shifted is not self.process:
            times = [self.process.time_of_level(shifted.level(t)) for t in times]
        return self._plan(name, chosen, times)

    def _shifted(self, tokens: int | None) -> Process:
        """The process whose times the schedules spread: the model's own but for a dynamic shift."""
        if self.dynamic_shift is None:
            return self.process
        if tokens is None:
            raise ValueError("this model shifts its noise by the size of the picture; give tokens, such as 4096")
        shift = self.dynamic_shift.shift(tokens)
        return RectifiedFlow(shift=shift, num_train_timesteps=self.noise.num_train_timesteps)

    def _spacing(self, schedule: str | None) -> str:
        """timestep_spacing as diffusers' config would have it for that schedule."""
        return schedule if schedule in SPACINGS else self.spacing or "normal"

    def _times_of(self, sampler: str, timesteps: Sequence[float]) -> list[float]:
        found = step_timesteps(timesteps, sampler, self.process, runge_kutta_start=self.runge_kutta_start)
        discrete = isinstance(self.noise, BetaConfig)  # whose timestep 0 has some noise; a flow's has none
        highest = self.noise.num_train_timesteps - (1 if discrete else 0)
        for before, after in zip([highest + 1.0, *found], found, strict=False):
            if not (0 <= after < before and after <= highest and (discrete or after > 0)):
                least = "0" if discrete else "above 0"
                raise ValueError(f"timesteps must fall within {highest} to {least}, but {after:g} follows {before:g}")
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
        # A flow starts from unit noise though diffusers' first step may lie a little below t = 1; ddim_uniform, which
        # it has not on a flow, starts so far below that the signal x should hold counts.
        flow = isinstance(self.noise, RectifiedFlow) and schedule != "ddim_uniform"
        scale = 1.0 if flow else sigma if bare else math.hypot(alpha, sigma)
        variant = pndm_runge_kutta if sampler == "pndm" and self.runge_kutta_start else get_sampler(sampler)
        return TimePlan(times=kept, start_scale=scale, told=told, process=self.process, sampler=variant)

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
