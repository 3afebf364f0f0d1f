"""Runs every sampler beside its reference on one small network and noise, and tabulates the largest differences.

`python -m tests.parity.sampler_table` writes docs/samplers.md. The network is the exact denoiser of a mixture of two
Gaussians a pixel, turned into each prediction type and driven by the timestep that it is told, so that a wrong
timestep, scale, noise draw or last step shows.
"""

from __future__ import annotations

import math
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from wordbrush.diffusion.guidance import clipped
from wordbrush.diffusion.plan import SamplingConfig
from wordbrush.diffusion.prediction import get_prediction, network_denoiser
from wordbrush.diffusion.process import BetaConfig, DiscreteVP, Process
from wordbrush.diffusion.samplers import SAMPLERS, get_sampler
from wordbrush.diffusion.scheduler_config import read_scheduler_config

SHAPE = (2, 3, 4, 4)
LATENT_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PIXEL_CLASSES = ("DDPMScheduler", "DDIMScheduler", "PNDMScheduler")

SCHEDULER_OF = {
    "ddpm": "DDPMScheduler",
    "ddim": "DDIMScheduler",
    "pndm": "PNDMScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_a": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "dpm2": "KDPM2DiscreteScheduler",
    "dpm2_a": "KDPM2AncestralDiscreteScheduler",
    "lms": "LMSDiscreteScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "dpmpp_sde": "DPMSolverSDEScheduler",
    "dpmpp_2m_sde": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "deis": "DEISMultistepScheduler",
    "lcm": "LCMScheduler",
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One sampler against one diffusers scheduler."""

    scheduler: str
    options: dict[str, Any] = field(default_factory=dict)
    steps: int = 10
    timesteps: tuple[int, ...] | None = None

    @property
    def config(self) -> dict[str, Any]:
        """scheduler_config.json, of a latent model unless the options say otherwise."""
        flow = "FlowMatch" in self.scheduler or self.options.get("use_flow_sigmas")
        config: dict[str, Any] = {"_class_name": self.scheduler, **({} if flow else LATENT_BETAS)}
        if self.scheduler in PIXEL_CLASSES:
            config["clip_sample"] = False
        if self.scheduler == "PNDMScheduler":
            config["skip_prk_steps"] = True
        return config | self.options

    def __str__(self) -> str:
        options = ",".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.scheduler}({options})-{'timesteps' if self.timesteps else self.steps}"


def case_of(sampler: str, *, steps: int = 10, timesteps: tuple[int, ...] | None = None, **options: Any) -> Case:
    """A case by our sampler's name."""
    if sampler == "dpmpp_2m_sde":
        options["algorithm_type"] = "sde-dpmsolver++"
    return Case(scheduler=SCHEDULER_OF[sampler], options=options, steps=steps, timesteps=timesteps)


def noises(count: int) -> list[Tensor]:
    """The same noise for both sides: (B, C, h, w) each."""
    generator = torch.Generator().manual_seed(11)
    return [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(count)]


def mixture_x0(x: Tensor, alpha: float, sigma: float) -> Tensor:
    """E[x0 | x] where each pixel of x0 is +-m with spread 0.3, m a fixed pattern: exact, smooth and not linear."""
    mean = torch.linspace(0.3, 1.2, SHAPE[1] * SHAPE[2] * SHAPE[3], dtype=x.dtype).reshape(1, *SHAPE[1:])
    spread = 0.09
    variance = alpha**2 * spread + sigma**2
    side = torch.tanh(alpha * mean * x / variance) * mean  # posterior mean of the component's centre
    return side + alpha * spread / variance * (x - alpha * side)


def network(process: Process, prediction: str) -> Callable[[Tensor, float], Tensor]:
    """(x, timestep) -> prediction, by the exact denoiser at the noise level of that timestep."""

    def call(x: Tensor, timestep: float) -> Tensor:
        if isinstance(process, DiscreteVP):
            t = process.time_of_timestep(timestep)
        else:
            t = process.time_of_level(timestep / 1000.0)
        # a flow's timestep may be rounded to no noise at all by diffusers
        alpha, sigma = max(process.alpha(t), 1e-6), max(process.sigma(t), 1e-6)
        x64 = x.double()
        return get_prediction(prediction).from_x0(mixture_x0(x64, alpha, sigma), x64, alpha, sigma).to(x.dtype)

    return call


def our_run(sampling: SamplingConfig, case: Case) -> Tensor:
    """The end of the run by our sampler."""
    plan = sampling.plan(case.steps) if case.timesteps is None else sampling.plan(timesteps=case.timesteps)
    start, *draws = noises(2 * case.steps + 2)
    process = sampling.process
    denoiser = network_denoiser(network(process, sampling.prediction), process, sampling.prediction, plan.timestep)
    if sampling.clip_x0 is not None:
        denoiser = clipped(denoiser, sampling.clip_x0)
    run = get_sampler(sampling.sampler)(denoiser, start * plan.start_scale, plan.times, process, iter(draws).__next__)
    return list(run)[-1].x


def reference_run(sampling: SamplingConfig, case: Case) -> Tensor:
    """The end of the same run by diffusers, in the process's own scale."""
    start, *draws = noises(2 * case.steps + 2)
    remaining = iter(draws)

    def drawn(*_: Any, **__: Any) -> Tensor:
        return next(remaining).float()

    with _diffusers_class(case.scheduler) as scheduler_class:
        scheduler = scheduler_class.from_config(case.config)
        if case.timesteps is None:
            scheduler.set_timesteps(case.steps)
        else:
            scheduler.set_timesteps(timesteps=list(case.timesteps))
        if case.scheduler == "DPMSolverSDEScheduler":
            scheduler.noise_sampler = _brownian(remaining)
        model = network(sampling.process, sampling.prediction)
        size = float(getattr(scheduler, "init_noise_sigma", 1.0))
        x = start.float() * size
        module = sys.modules[scheduler_class.__module__]
        with mock.patch.object(module, "randn_tensor", drawn, create=True):
            for t in scheduler.timesteps:
                scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
                x = scheduler.step(model(scaled, float(t)), t, x).prev_sample
    # schedulers that begin with large noise work in x / alpha; alpha is not 1 where they end at sigma_min
    return x / math.sqrt(1.0 + float(scheduler.sigmas[-1]) ** 2) if size != 1.0 else x


@contextmanager
def _diffusers_class(name: str) -> Iterator[Any]:
    """The scheduler class; DPMSolverSDEScheduler wants torchsde only for the Brownian tree that we replace."""
    if name != "DPMSolverSDEScheduler":
        import diffusers

        yield getattr(diffusers, name)
        return
    with mock.patch.dict(sys.modules, {"torchsde": types.ModuleType("torchsde")}):
        from diffusers.schedulers.scheduling_dpmsolver_sde import DPMSolverSDEScheduler

        yield DPMSolverSDEScheduler


def _brownian(draws: Iterator[Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """A Brownian path over sigma, seen at the middle and the end of each step, from two independent draws a step."""
    half: list[tuple[float, float, Tensor]] = []

    def increment(start: Tensor, end: Tensor) -> Tensor:
        if not half:
            half.append((float(start), float(end), next(draws)))
            return half[0][2].float()
        high, middle, first = half.pop()
        low = float(end)
        path = first * math.sqrt(high - middle) + next(draws) * math.sqrt(middle - low)
        return (path / math.sqrt(high - low)).float()

    return increment


def max_error(case: Case) -> float:
    """The largest difference at the end of the run, x being of about unit size."""
    sampling = read_scheduler_config(case.config)
    theirs = reference_run(sampling, case)
    if not theirs.isfinite().all():
        raise ArithmeticError(f"diffusers itself gives no finite picture for {case}")
    return float((our_run(sampling, case) - theirs.double()).abs().max())


def k_diffusion_error(sampler: str, steps: int, schedule: str) -> float:
    """Against k-diffusion's formulas, which work in y = x / alpha over sigma / alpha, for the two it alone has."""
    config = SamplingConfig(noise=BetaConfig(), sampler=sampler)
    plan = config.plan(steps, schedule=schedule)
    process = config.process
    start, *draws = noises(2 * steps + 2)

    def denoiser(x: Tensor, t: float) -> Tensor:
        return mixture_x0(x, process.alpha(t), process.sigma(t))

    def denoised(y: Tensor, ratio: float) -> Tensor:
        t = process.time_of_lambda(-math.log(ratio))
        return denoiser(y * process.alpha(t), t)

    ours = list(get_sampler(sampler)(denoiser, start * plan.start_scale, plan.times, process, iter(draws).__next__))
    ratios = [process.level(t) if t > 0 else 0.0 for t in plan.times]
    y = start * plan.start_scale / process.alpha(plan.times[0])
    reference = {"dpmpp_2s_a": _reference_2s_a, "dpmpp_3m_sde": _reference_3m_sde}[sampler]
    return float((ours[-1].x - reference(denoised, y, ratios, iter(draws))).abs().max())


def _reference_2s_a(
    denoised: Callable[[Tensor, float], Tensor], y: Tensor, ratios: list[float], draws: Iterator[Tensor]
) -> Tensor:
    for high, low in pairwise(ratios):
        first = denoised(y, high)
        if low == 0.0:
            return first
        up = low * math.sqrt(1.0 - (low / high) ** 2)
        down = math.sqrt(low**2 - up**2)
        middle = math.exp(0.5 * (math.log(high) + math.log(down)))
        halfway = (middle / high) * y + (1.0 - middle / high) * first
        y = (down / high) * y + (1.0 - down / high) * denoised(halfway, middle) + up * next(draws)
    return y


def _reference_3m_sde(
    denoised: Callable[[Tensor, float], Tensor], y: Tensor, ratios: list[float], draws: Iterator[Tensor]
) -> Tensor:
    past: list[tuple[float, Tensor]] = []  # (step in log ratio, estimate), newest first
    for high, low in pairwise(ratios):
        now = denoised(y, high)
        if low == 0.0:
            return now
        h = math.log(high / low)
        y = math.exp(-2 * h) * y + (1 - math.exp(-2 * h)) * now
        phi = (math.exp(-2 * h) - 1) / (2 * h) + 1
        if len(past) == 2:
            (h1, before), (h2, earlier) = past
            recent, older = (now - before) * h / h1, (before - earlier) * h / h2
            second = (recent - older) * h / (h1 + h2)
            y = y + phi * (recent + (recent - older) * h1 / (h1 + h2)) - (phi / (2 * h) - 0.5) * second
        elif past:
            y = y + phi * (now - past[0][1]) * h / past[0][0]
        y = y + low * math.sqrt(1 - math.exp(-2 * h)) * next(draws)
        past = [(h, now), *past[:1]]
    return y


def _row(sampler: str) -> str:
    """One line of the table: the largest difference over spacings, step counts and prediction types."""
    if sampler in ("dpmpp_2s_a", "dpmpp_3m_sde"):
        error = max(k_diffusion_error(sampler, n, s) for n in (4, 10, 20) for s in ("normal", "karras"))
        return f"| `{sampler}` | k-diffusion's formula | {error:.0e} | – |"
    errors = {}
    for kind in ("epsilon", "v_prediction"):
        options = {} if kind == "epsilon" else {"prediction_type": kind}
        cases = [
            case_of(sampler, steps=steps, timestep_spacing=spacing, **options)
            for steps in (4, 10, 20)
            for spacing in ("leading", "trailing")
        ]
        errors[kind] = max(max_error(case) for case in cases)
    v = "see below" if sampler == "pndm" else f"{errors['v_prediction']:.0e}"
    return f"| `{sampler}` | {SCHEDULER_OF[sampler]} | {errors['epsilon']:.0e} | {v} |"


_HEAD = """# Samplers against their references

Written by `python -m tests.parity.sampler_table`; the same comparisons, and many more options, are tests
(`tests/parity/test_samplers.py`). Each sampler runs 4, 10 and 20 steps beside the reference, on the same noise, with
the exact denoiser of a two-component mixture as the network; the figure is the largest difference at the end of the
run, x being of about unit size. diffusers computes in float32, which is most of it; k-diffusion's formulas were run in
float64.

| sampler | reference | epsilon | v |
|---|---|---|---|
"""


def main() -> None:
    """Write docs/samplers.md and print it."""
    warnings.simplefilter("ignore")
    rows = "\n".join(_row(sampler) for sampler in SAMPLERS)
    known = "\n".join(f"| {why} | {max_error(case):.0e} |" for why, case in KNOWN_DIFFERENCES.items())
    text = f"{_HEAD}{rows}\n\n{_KNOWN}{known}\n"
    Path("docs/samplers.md").write_text(text, encoding="utf-8")
    print(text)


_KNOWN = """## Known differences

Where a diffusers scheduler contradicts itself, Wordbrush does what its paper says, and pictures differ. Measured as
above, 20 steps unless stated:

| what diffusers does | difference |
|---|---|
"""

KNOWN_DIFFERENCES = {
    "DDIM, linspace spacing: strides by 1000 // steps, but the network is told the next timestep of the list": case_of(
        "ddim", steps=20, timestep_spacing="linspace"
    ),
    "DDIM, trailing spacing, 30 steps (not a divisor of 1000): the same": case_of(
        "ddim", steps=30, timestep_spacing="trailing"
    ),
    "DDIM, clip_sample: clips x0 but goes on with the noise that belonged to the unclipped one": case_of(
        "ddim", steps=20, clip_sample=True, clip_sample_range=0.8
    ),
    "PNDM, v-prediction: extrapolates v where the paper extrapolates eps": case_of(
        "pndm", steps=20, prediction_type="v_prediction"
    ),
    "DDPM, zero terminal SNR: takes alpha as 0 at the last timestep, its other schedulers as 2^-12": case_of(
        "ddpm", steps=20, prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    ),
    "KDPM2 ancestral with Karras sigmas: rounds the timestep told at the start of a step, not at its middle": case_of(
        "dpm2_a", steps=20, use_karras_sigmas=True
    ),
    "DEIS on a flow: ends at the last noise level of the list, with noise left": case_of(
        "deis", steps=20, use_flow_sigmas=True, prediction_type="flow_prediction"
    ),
    "DPMSolverMultistep, SDE of order 3: the sign of one term is reversed; `dpmpp_3m_sde` is k-diffusion's": Case(
        scheduler="DPMSolverMultistepScheduler",
        options={"algorithm_type": "sde-dpmsolver++", "solver_order": 3},
        steps=20,
    ),
}


if __name__ == "__main__":
    main()
