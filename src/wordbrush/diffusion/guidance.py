"""Guidance: functions that take denoisers and return one. A scale of 1 is off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wordbrush.diffusion.prediction import STEPWISE, Denoiser, get_prediction
from wordbrush.diffusion.process import Process

PairDenoiser = Callable[[Tensor, float], tuple[Tensor, Tensor]]
"""(x: (B, C, h, w), t) -> (x0 given the prompt, x0 given the negative prompt), both of x's shape."""


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How strongly, and when, pictures are pushed towards the prompt and away from the negative prompt."""

    scale: float = 1.0
    """1 is off; 5 to 8 is usual."""
    rescale: float = 0.0
    """0…1: how much of the contrast that guidance adds is taken away again (phi in Lin 2024, eq. 16)."""
    interval: tuple[float, float] = (0.0, 1.0)
    """(low, high) in t: guide only at times low <= t <= high (Kynkaanniemi 2024)."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.rescale <= 1.0:
            raise ValueError(f"guidance rescale={self.rescale} is outside 0 to 1; 0 is off and 0.7 is usual")
        low, high = self.interval
        if not 0.0 <= low <= high <= 1.0:
            raise ValueError(f"guidance interval={self.interval} must be (low, high) with 0 <= low <= high <= 1")

    @property
    def off(self) -> bool:
        """Whether guidance changes nothing, so that the negative prompt need not be computed."""
        return self.scale == 1.0

    def active(self, t: float) -> bool:
        """Whether guidance acts at t."""
        return not self.off and self.interval[0] <= t <= self.interval[1]


def pair(positive: Denoiser, negative: Denoiser) -> PairDenoiser:
    """Two denoisers called one after the other."""

    def both(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        return positive(x, t), negative(x, t)

    return both


def batched_pair(doubled: Denoiser) -> PairDenoiser:
    """One call for both: `doubled` takes (2B, C, h, w), its conditioning being B prompts, then B negative prompts."""

    def both(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        positive, negative = doubled(torch.cat([x, x]), t).chunk(2)  # (B, C, h, w) each
        return positive, negative

    return both


def composed(stacked: Denoiser, weights: Tensor) -> PairDenoiser:
    """Several prompts at once: their guidance directions are added up (Liu 2022, Composable Diffusion, eq. 11).

    In place of the prompt stands negative + sum of weights[k] * (prompt k - negative), so that `classifier_free` with
    this pair guides by the same sum times its scale. One prompt of weight 1 is `batched_pair`.

    Args:
        stacked: one call for all; takes ((K + 1) B, C, h, w), its conditioning being the first of K prompts for each of
            B pictures, then the second …, then B negative prompts.
        weights: (K,), or (K, B) where pictures differ; negative weights lead away from a prompt.
    """

    def both(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        parts = stacked(torch.cat([x] * (len(weights) + 1)), t).unflatten(0, (-1, len(x)))  # (K + 1, B, C, h, w)
        prompts, negative = parts[:-1], parts[-1]
        if len(weights) == 1 and (weights == 1.0).all():
            return prompts[0], negative  # the bits of plain guidance
        factors = weights.to(x).reshape(len(weights), -1, *[1] * (x.ndim - 1))  # (K, 1 or B, 1, 1, 1)
        return negative + (factors * (prompts - negative)).sum(dim=0), negative

    return both


def edited(both: PairDenoiser, bare: Denoiser, scale: float) -> PairDenoiser:
    """Guidance towards a picture that is being edited, beside that towards the prompt (Brooks 2023, eq. 3).

    In place of the negative prompt's estimate stands bare + scale * (negative - bare), so that `classifier_free` with
    this pair adds its own scale * (prompt - negative) to it.

    Args:
        both: prompt and negative prompt, each with the picture.
        bare: the negative prompt without the picture.
        scale: 1 adds nothing.
    """

    def towards(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        prompt, negative = both(x, t)
        without = bare(x, t)
        base = without + scale * (negative - without)
        return base + (prompt - negative), base

    return towards


def classifier_free(
    positive: Denoiser, both: PairDenoiser, guidance: Guidance, process: Process, prediction: str
) -> Denoiser:
    """Classifier-free guidance (Ho & Salimans 2022, eq. 6; 1 is off here, 0 there).

    positive: used alone where guidance does not act, which saves half the work; both: from `pair` or `batched_pair`.
    process, prediction: rescaling compares standard deviations of what the network predicts, as Lin 2024 does, not of
    x0 (of eps where it predicts a step back); guidance itself is the same in either.
    """
    if guidance.off:
        return positive
    space = get_prediction("epsilon" if prediction in STEPWISE else prediction)

    def guided(x: Tensor, t: float) -> Tensor:
        if not guidance.active(t):
            return positive(x, t)
        x0_positive, x0_negative = both(x, t)
        x0 = x0_negative + guidance.scale * (x0_positive - x0_negative)
        if guidance.rescale == 0.0:
            return x0
        alpha, sigma = max(process.alpha(t), 1e-6), process.sigma(t)
        output = rescaled(
            space.from_x0(x0, x, alpha, sigma), space.from_x0(x0_positive, x, alpha, sigma), guidance.rescale
        )
        return space.to_x0(output, x, alpha, sigma)

    return guided


def rescaled(guided: Tensor, positive: Tensor, amount: float) -> Tensor:
    """Give each guided prediction the spread of its unguided one, in part (Lin 2024, eqs. 15, 16).

    guided, positive: (B, C, h, w), what the network predicts with and without guidance; amount: 0…1.
    """
    dims = tuple(range(1, guided.ndim))
    factor = positive.std(dims, keepdim=True) / guided.std(dims, keepdim=True)  # (B, 1, 1, 1)
    return guided * (amount * factor + (1.0 - amount))


def clipped(denoiser: Denoiser, limit: float) -> Denoiser:
    """Keep clean estimates within +-limit, for models of pixels (Ho 2020); never for latents, which have no bounds."""

    def within(x: Tensor, t: float) -> Tensor:
        return denoiser(x, t).clamp(-limit, limit)

    return within
