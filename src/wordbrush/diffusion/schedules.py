"""Schedules: which times a sampler stops at.

A schedule gives `steps` falling times, the first at or near 1; the end (t = 0, or the first training time) is appended
by `schedule_times`. On a discrete model the times are training timesteps, found just as diffusers' schedulers find
them; these differ a little between groups of samplers, which a `Grid` states.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

import numpy as np

from wordbrush.diffusion.process import DiscreteVP, Process, RectifiedFlow


class Family(Enum):
    """Groups of samplers that spread timesteps in the same way in diffusers."""

    KARRAS = "karras"
    """euler, euler_a, heun, dpm2, dpm2_a, lms, dpmpp_sde, dpmpp_2s_a: both ends included, fractions allowed."""
    MULTISTEP = "multistep"
    """dpmpp_2m, dpmpp_2m_sde, dpmpp_3m_sde, unipc, deis: whole timesteps, the least noisy one dropped."""
    ANCESTRAL = "ancestral"
    """ddpm, ddim, pndm: whole timesteps, both ends included."""
    CONSISTENCY = "consistency"
    """lcm: a subset of the timesteps it was distilled on."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """How timesteps are spread; the defaults are those of `euler` in diffusers."""

    family: Family = Family.KARRAS
    spacing: str = "normal"
    """The schedule that gives the range which karras, exponential and beta fill, in the karras family."""
    steps_offset: int = 0
    """Added to the timesteps of ddim_uniform (1 for Stable Diffusion)."""
    distilled_steps: int = 50
    """How many timesteps an lcm model was distilled on."""
    from_pure_noise: bool = False
    """Whether a multistep sampler starts a flow at t = 1 rather than one training step below, as unipc does."""
    shifted_twice: bool = True
    """Whether a flow's shift was known when diffusers' scheduler was made, which shifts the lower end of `normal` then
    and again when the steps are set."""
    ays: str = "sd1"
    """Which table of Align Your Steps."""
    terminal: float | None = None
    """The level at which a flow's last step begins, where it is stated: the levels are stretched to end there."""


Schedule = Callable[[Process, int, Grid], list[float]]
"""(process, steps, grid) -> `steps` falling times > 0."""


def _even(high: float, low: float, count: int) -> list[float]:
    """count values from high to low; one value is the high one."""
    return [float(value) for value in np.linspace(high, low, count)]


def _of_timesteps(process: DiscreteVP, timesteps: Sequence[float] | np.ndarray) -> list[float]:
    last = process.num_train_timesteps - 1
    return [process.time_of_timestep(min(float(k), last)) for k in timesteps]


def _stretched(process: Process, times: list[float], grid: Grid) -> list[float]:
    """The times with 1 - level stretched so that the last level is the terminal one, where one is stated."""
    least = process.level(times[-1])
    if grid.terminal is None or least >= 1.0:
        return times
    factor = (1.0 - grid.terminal) / (1.0 - least)
    return [process.time_of_level(1.0 - (1.0 - process.level(t)) * factor) for t in times]


def normal(process: Process, steps: int, grid: Grid) -> list[float]:
    """Even steps over the whole training range ("linspace")."""
    if isinstance(process, DiscreteVP):
        last = process.num_train_timesteps - 1
        if grid.family is Family.KARRAS:
            return _of_timesteps(process, _even(last, 0, steps))
        # counted from below, as diffusers does: which way a half is rounded depends on it
        count = steps + 1 if grid.family is Family.MULTISTEP else steps
        return _of_timesteps(process, np.linspace(0, last, count).round()[::-1][:steps] if count > 1 else [last])
    if isinstance(process, RectifiedFlow):
        least = 1.0 / process.num_train_timesteps
        if grid.family is Family.MULTISTEP:
            high, low = (1.0, least) if grid.from_pure_noise else (1.0 - least, 0.0)
            return _stretched(process, _even(high, low, steps + 1)[:-1], grid)
        return _stretched(process, _even(1.0, process.sigma(least) if grid.shifted_twice else least, steps), grid)
    return _even(1.0, process.first_time, steps)


def ddim_uniform(process: Process, steps: int, grid: Grid) -> list[float]:
    """Whole strides up from the first timestep, so that the last one is left out ("leading")."""
    if not isinstance(process, DiscreteVP):
        return _even(1.0, process.first_time, steps + 1)[1:]
    count = steps + 1 if grid.family is Family.MULTISTEP else steps
    stride = process.num_train_timesteps // count
    return _of_timesteps(process, np.arange(count)[::-1][:steps] * stride + grid.steps_offset)


def sgm_uniform(process: Process, steps: int, grid: Grid) -> list[float]:
    """Even strides down from pure noise, so that the first timestep is left out ("trailing", Lin 2024, table 2)."""
    if not isinstance(process, DiscreteVP):
        return _stretched(process, _even(1.0, 0.0, steps + 1)[:-1], grid)
    total = process.num_train_timesteps
    if grid.family is Family.CONSISTENCY:
        if steps > grid.distilled_steps:
            raise ValueError(f"steps={steps} is too many for a model distilled on {grid.distilled_steps} timesteps")
        distilled = np.arange(grid.distilled_steps, 0, -1) * (total // grid.distilled_steps) - 1
        return _of_timesteps(
            process, distilled[np.floor(np.arange(steps) * (grid.distilled_steps / steps)).astype(int)]
        )
    return _of_timesteps(process, np.arange(total, 0, -total / steps).round()[:steps] - 1)


def simple(process: Process, steps: int, grid: Grid) -> list[float]:
    """Every (T / steps)-th training timestep from the last down (ComfyUI's "simple")."""
    if not isinstance(process, DiscreteVP):
        return _stretched(process, _even(1.0, 0.0, steps + 1)[:-1], grid)
    total = process.num_train_timesteps
    return _of_timesteps(process, total - 1 - np.floor(np.arange(steps) * (total / steps)))


def _level_range(process: Process, steps: int, grid: Grid) -> tuple[float, float]:
    """Highest and lowest noise level for the schedules that are even in some function of it."""
    if isinstance(process, DiscreteVP) and grid.family is not Family.KARRAS:
        return process.level(1.0), process.level(process.first_time)
    times = SCHEDULES[grid.spacing](process, steps, grid) if grid.spacing in SPACINGS else [1.0, process.first_time]
    return process.level(times[0]), process.level(times[-1])


def karras(process: Process, steps: int, grid: Grid) -> list[float]:
    """Even in level^(1/7) (Karras 2022, eq. 5)."""
    high, low = _level_range(process, steps, grid)
    return [process.time_of_level(root**7) for root in _even(high ** (1 / 7), low ** (1 / 7), steps)]


def exponential(process: Process, steps: int, grid: Grid) -> list[float]:
    """Even in the logarithm of the level."""
    high, low = _level_range(process, steps, grid)
    return [process.time_of_level(math.exp(log)) for log in _even(math.log(high), math.log(low), steps)]


def beta(process: Process, steps: int, grid: Grid) -> list[float]:
    """Levels at the quantiles of a Beta(0.6, 0.6) distribution: dense at both ends (Lee 2024)."""
    high, low = _level_range(process, steps, grid)
    return [process.time_of_level(low + beta_quantile(part, 0.6) * (high - low)) for part in _even(1.0, 0.0, steps)]


# Align Your Steps (Sabour 2024): sigma / alpha for 10 steps and the end, found for three models. Latents of about unit
# variance are alike, so the table of Stable Diffusion 1 serves any model without one.
AYS_LEVELS = {
    "sd1": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}


def ays(process: Process, steps: int, grid: Grid) -> list[float]:
    """Align Your Steps (Sabour 2024): tabulated for 10 steps, log-linear between for other counts.

    The highest level is replaced by the model's own; on a flow the signal-to-noise ratios are those of the table.
    """
    logs = np.log(AYS_LEVELS[grid.ays])
    positions = _even(0.0, len(logs) - 1.0, steps + 1)[:-1]
    levels = np.exp(np.interp(positions, np.arange(len(logs)), logs))
    return [1.0] + [process.time_of_lambda(-math.log(level)) for level in levels[1:]]


SCHEDULES: dict[str, Schedule] = {
    "normal": normal,
    "ddim_uniform": ddim_uniform,
    "sgm_uniform": sgm_uniform,
    "simple": simple,
    "karras": karras,
    "exponential": exponential,
    "beta": beta,
    "ays": ays,
}

SPACINGS = ("normal", "ddim_uniform", "sgm_uniform")
"""What diffusers calls linspace, leading and trailing."""


def get_schedule(name: str) -> Schedule:
    """The schedule of that name; raises ValueError with the names there are."""
    if name not in SCHEDULES:
        raise ValueError(f"schedule {name!r} is unknown; there are {', '.join(SCHEDULES)}")
    return SCHEDULES[name]


def schedule_times(name: str, process: Process, steps: int, grid: Grid | None = None, end: float = 0.0) -> list[float]:
    """The times of a whole run: `steps` from the schedule, then `end`.

    Raises ValueError for an unknown name, for no steps, and for more steps than the model has timesteps to stop at.
    """
    schedule = get_schedule(name)
    if steps < 1:
        raise ValueError(f"steps={steps} is too few; at least 1 is needed")
    times = schedule(process, steps, Grid() if grid is None else grid)
    if any(after >= before for before, after in pairwise(times)):
        raise ValueError(f"steps={steps} is too many for schedule {name!r}, which would stop twice at one time")
    return [*times, end]


def beta_quantile(part: float, shape: float) -> float:
    """The x below which `part` of a Beta(shape, shape) distribution lies; part and x in [0, 1]."""
    if part <= 0.0 or part >= 1.0:
        return min(max(part, 0.0), 1.0)
    if part > 0.5:
        return 1.0 - beta_quantile(1.0 - part, shape)
    low, high = 0.0, 0.5
    while high - low > 1e-15 * high:
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        low, high = (middle, high) if _beta_share(middle, shape) < part else (low, middle)
    return 0.5 * (low + high)


def _beta_share(x: float, shape: float) -> float:
    """The share of Beta(shape, shape) below x <= 1/2: its density as a power series in x, integrated term by term."""
    coefficient, total = 1.0, 0.0
    for n in range(80):  # the terms fall at least as fast as x^n <= 2^-n
        total += coefficient * x**n / (shape + n)
        coefficient *= (n + 1.0 - shape) / (n + 1.0)
    whole = math.gamma(shape) ** 2 / math.gamma(2.0 * shape)
    return float(x**shape * total / whole)
