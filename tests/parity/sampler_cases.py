"""One sampler beside one diffusers scheduler, on the same noise, with one small network.

The network is the exact denoiser of a mixture of two Gaussians a pixel, turned into each prediction type and driven by
the timestep that it is told, so that a wrong timestep, scale, noise draw or last step shows.
"""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from wordbrush.diffusion.guidance import clipped
from wordbrush.diffusion.plan import SamplingConfig
from wordbrush.diffusion.prediction import get_prediction, network_denoiser
from wordbrush.diffusion.process import DiscreteVP, Process
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
FLOW_SCHEDULER_OF = {
    "euler": "FlowMatchEulerDiscreteScheduler",
    "heun": "FlowMatchHeunDiscreteScheduler",
    "lcm": "FlowMatchLCMScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "dpmpp_2m_sde": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "deis": "DEISMultistepScheduler",
}
# FLUX.1 dev's scheduler_config.json, without its class
FLUX_DEV = {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One sampler against one diffusers scheduler."""

    scheduler: str
    options: dict[str, Any] = field(default_factory=dict)
    steps: int = 10
    timesteps: tuple[int, ...] | None = None
    tokens: int | None = None
    """Given, the schedule is set as diffusers' FluxPipeline sets it for so many image tokens."""
    unfinished: bool = False
    """Whether the reference ends where its last step begins, noise and all, so that ours is stopped there too."""

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
        size = "" if self.tokens is None else f"-{self.tokens}tokens"
        return f"{self.scheduler}({options})-{'timesteps' if self.timesteps else self.steps}{size}"


def case_of(sampler: str, *, steps: int = 10, timesteps: tuple[int, ...] | None = None, **options: Any) -> Case:
    """A case by our sampler's name."""
    if sampler == "dpmpp_2m_sde":
        options["algorithm_type"] = "sde-dpmsolver++"
    return Case(scheduler=SCHEDULER_OF[sampler], options=options, steps=steps, timesteps=timesteps)


def flow_case_of(sampler: str, *, steps: int = 10, tokens: int | None = None, **options: Any) -> Case:
    """A case on a flow by our sampler's name; `shift` is the scheduler's own name for it, whichever that is."""
    scheduler = FLOW_SCHEDULER_OF[sampler]
    if "FlowMatch" not in scheduler:
        options = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"} | options
        if "shift" in options:
            options["flow_shift"] = options.pop("shift")
    if sampler == "dpmpp_2m_sde":
        options["algorithm_type"] = "sde-dpmsolver++"
    return Case(scheduler=scheduler, options=options, steps=steps, tokens=tokens, unfinished=sampler == "deis")


def noises(count: int) -> list[Tensor]:
    """The same noise for both sides: (B, C, h, w) each."""
    generator = torch.Generator().manual_seed(11)
    return [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(count)]


def mixture_x0(x: Tensor, alpha: float, sigma: float) -> Tensor:
    """E[x0 | x] where each pixel of x0 is +-m with spread 0.3, m a fixed pattern: exact, smooth and not linear."""
    mean = torch.linspace(0.3, 1.2, x[0].numel(), dtype=x.dtype).reshape(1, *x.shape[1:])
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
    steps = case.steps if case.timesteps is None else None
    plan = sampling.plan(steps, timesteps=case.timesteps, tokens=case.tokens)
    times = (*plan.times[:-1], plan.times[-2]) if case.unfinished else plan.times
    start, *draws = noises(2 * case.steps + 2)
    denoiser = network_denoiser(
        network(plan.process, sampling.prediction), plan.process, sampling.prediction, plan.timestep
    )
    if sampling.clip_x0 is not None:
        denoiser = clipped(denoiser, sampling.clip_x0)
    run = plan.sampler(denoiser, start * plan.start_scale, times, plan.process, iter(draws).__next__)
    return list(run)[-1].x


def reference_run(sampling: SamplingConfig, case: Case) -> Tensor:
    """The end of the same run by diffusers, in the process's own scale."""
    start, *draws = noises(2 * case.steps + 2)
    remaining = iter(draws)

    def drawn(*_: Any, **__: Any) -> Tensor:
        return next(remaining).float()

    with _diffusers_class(case.scheduler) as scheduler_class:
        scheduler = scheduler_class.from_config(case.config)
        _set_timesteps(scheduler, case)
        if case.scheduler == "DPMSolverSDEScheduler":
            path = brownian(remaining)
            scheduler.noise_sampler = lambda start, end: path(start, end).float()
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


def _set_timesteps(scheduler: Any, case: Case) -> None:
    if case.timesteps is not None:
        scheduler.set_timesteps(timesteps=list(case.timesteps))
    elif case.tokens is None:
        scheduler.set_timesteps(case.steps)
    else:
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift

        names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        known = [scheduler.config.get(name, value) for name, value in zip(names, (256, 4096, 0.5, 1.15), strict=True)]
        mu = calculate_shift(case.tokens, *known)
        if scheduler.config.get("use_flow_sigmas"):
            scheduler.set_timesteps(case.steps, mu=mu)
        else:
            scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / case.steps, case.steps), mu=mu)


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


def brownian(draws: Iterator[Tensor]) -> Callable[[Any, Any], Tensor]:
    """A Brownian path over sigma, seen at the middle and the end of each step, from two independent draws a step."""
    half: list[tuple[float, float, Tensor]] = []

    def increment(start: Any, end: Any) -> Tensor:
        if not half:
            half.append((float(start), float(end), next(draws)))
            return half[0][2]
        high, middle, first = half.pop()
        low = float(end)
        path = first * math.sqrt(high - middle) + next(draws) * math.sqrt(middle - low)
        return path / math.sqrt(high - low)

    return increment


def max_error(case: Case) -> float:
    """The largest difference at the end of the run, x being of about unit size."""
    family = None if case.tokens is None else "flux-dev"
    sampling = read_scheduler_config(case.config, family=family)
    theirs = reference_run(sampling, case)
    if not theirs.isfinite().all():
        raise ArithmeticError(f"diffusers itself gives no finite picture for {case}")
    return float((our_run(sampling, case) - theirs.double()).abs().max())


KNOWN_DIFFERENCES = {
    "Heun, 2 steps: averages slopes 500 times apart in sigma, and blows up; here such a step is one of Euler": case_of(
        "heun", steps=2
    ),
    "KDPM2, 2 steps: the same": case_of("dpm2", steps=2),
    "PNDM with its Runge-Kutta start, 8 steps: the middle of an odd stride of 125 is rounded down": case_of(
        "pndm", steps=8, skip_prk_steps=False
    ),
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


