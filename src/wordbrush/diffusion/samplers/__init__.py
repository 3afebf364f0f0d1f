"""Samplers: walks from noise to data that know a denoiser, a falling list of times and the noise process.

Each is a generator, `for step in sampler(denoiser, x, times, process, noise): ...`, and yields a `Step` for every pair
of neighbouring times. They are written in alpha, sigma and lambda = log(alpha / sigma) alone, so that one formula
serves variance-preserving, variance-exploding and rectified-flow models.
"""

from __future__ import annotations

from wordbrush.diffusion.samplers.base import Sampler, Step
from wordbrush.diffusion.samplers.dpmpp import dpmpp_2m, dpmpp_2m_sde, dpmpp_2s_a, dpmpp_3m_sde, dpmpp_sde
from wordbrush.diffusion.samplers.first_order import ddim, ddpm, euler, euler_a, lcm
from wordbrush.diffusion.samplers.multistep import deis, lms, pndm
from wordbrush.diffusion.samplers.two_stage import dpm2, dpm2_a, heun
from wordbrush.diffusion.samplers.unipc import unipc

__all__ = ["SAMPLERS", "Sampler", "Step", "get_sampler"]

SAMPLERS: dict[str, Sampler] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "pndm": pndm,
    "euler": euler,
    "euler_a": euler_a,
    "heun": heun,
    "dpm2": dpm2,
    "dpm2_a": dpm2_a,
    "lms": lms,
    "dpmpp_2s_a": dpmpp_2s_a,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_sde": dpmpp_sde,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "dpmpp_3m_sde": dpmpp_3m_sde,
    "unipc": unipc,
    "deis": deis,
    "lcm": lcm,
}


def get_sampler(name: str) -> Sampler:
    """The sampler of that name; raises ValueError with the names there are."""
    if name not in SAMPLERS:
        raise ValueError(f"sampler {name!r} is unknown; there are {', '.join(SAMPLERS)}")
    return SAMPLERS[name]
