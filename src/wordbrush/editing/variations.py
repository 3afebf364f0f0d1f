"""Variations: starting noise turned a little towards other noise, so that a picture keeps its plan and changes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wordbrush.diffusion.noise import NoiseSource
from wordbrush.request import GenerationRequest

# Noises whose angle has a smaller sine than this are as good as parallel; the formula would divide by it.
_PARALLEL = 1e-6


def slerp(amount: float, first: Tensor, second: Tensor) -> Tensor:
    """Spherical interpolation (Shoemake 1985; White 2016, §2.1): between two noises lies noise of the same size.

    A straight line between them would pass through vectors shorter than any noise that the network was trained on.

    Args:
        amount: 0 gives `first`, 1 gives `second`, both bit for bit.
        first, second: (B, …). Each row is one vector, and its result does not depend on the other rows.
    """
    if amount in (0.0, 1.0):
        return (second if amount else first).clone()
    return torch.stack([_slerp(amount, a, b) for a, b in zip(first, second, strict=True)])


def _slerp(amount: float, a: Tensor, b: Tensor) -> Tensor:
    wide_a, wide_b = a.double(), b.double()
    length = wide_a.norm() * wide_b.norm()
    angle = torch.acos(((wide_a * wide_b).sum() / length.clamp(min=1e-300)).clamp(-1.0, 1.0))
    sine = torch.sin(angle)
    if sine < _PARALLEL:
        return ((1.0 - amount) * wide_a + amount * wide_b).to(a.dtype)
    weights = torch.sin((1.0 - amount) * angle) / sine, torch.sin(amount * angle) / sine
    return (weights[0] * wide_a + weights[1] * wide_b).to(a.dtype)


def varied(noise: Tensor, request: GenerationRequest, seeds: Sequence[int]) -> Tensor:
    """The starting noise of a filled-in request: turned towards the variation seed's, where one is asked for.

    A1111's variation seed and strength, with the angle taken over the whole picture (A1111 takes one for every column
    of the latents, so its pixels differ).

    Args:
        noise: (B, C, h, w), the seeds' own, or the `latents` given.
        seeds: of the pictures; each one's variation seed is as far from the request's as its seed is.
    """
    if request.variation_strength is None:
        return noise
    moved = (request.variation_seed or 0) - (request.seed or 0)
    other = NoiseSource([seed + moved for seed in seeds], noise.shape[1:])
    return slerp(request.variation_strength, noise, other())
