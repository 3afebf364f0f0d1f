"""Noise processes: how much signal and noise there is in x at time t.

Every process is written in the same form, x_t = alpha(t) * x0 + sigma(t) * eps with eps ~ N(0, 1), and differs only in
alpha and sigma. t runs from 0 (clean) to 1 (pure noise), and lambda = log(alpha / sigma) falls from +inf to its least.

    DiscreteVP      Stable Diffusion 1, 2, XL: 1000 training timesteps, alpha^2 + sigma^2 = 1   (Ho 2020, eq. 4)
    KarrasVE        EDM: alpha = 1, sigma up to 80                                             (Karras 2022, table 1)
    RectifiedFlow   SD 3, FLUX: alpha = 1 - sigma                                              (Liu 2022; Esser 2024)

All arithmetic is in float64: the numbers are few, and near the ends differences of them are divided by small ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

# A step that starts with less signal than this (alpha / sigma) starts from pure noise as far as a network can tell.
NO_SIGNAL = 1e-3


class Process(Protocol):
    """What samplers and schedules know of a noise process. Times are floats in [0, 1], 1 is pure noise."""

    @property
    def first_time(self) -> float:
        """The least noisy time that networks of this process are trained on, > 0."""

    def alpha(self, t: float) -> float:
        """Size of the signal at t."""

    def sigma(self, t: float) -> float:
        """Size of the noise at t; 0 at t = 0."""

    def lambda_(self, t: float) -> float:
        """log(alpha / sigma) at t; +inf at t = 0, finite at t = 1."""

    def time_of_lambda(self, lambda_: float) -> float:
        """The t with that lambda, the inverse of `lambda_`; values beyond pure noise give 1."""

    def scale(self, t: float) -> float:
        """The length c(t) by which x is divided for methods that step along y = x / c against the level sigma / c.

        Karras 2022 (eq. 4) takes c = alpha where alpha > 0 throughout; a rectified flow, whose alpha ends at 0, is
        straight in x itself: c = alpha + sigma = 1. In both pictures dy / dlevel = (y - x0) / level.
        """

    def level(self, t: float) -> float:
        """sigma / scale, the noise level of those methods and of the karras, exponential and beta schedules."""

    def time_of_level(self, level: float) -> float:
        """The t with that level, the inverse of `level`."""

    def timestep(self, t: float) -> float:
        """What the network is told of t: the training timestep 0…999, or its own measure of noise."""

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) for a batch of times (B,), each as float32 (B, 1, 1, 1), for training."""


@dataclass(frozen=True, kw_only=True)
class BetaConfig:
    """How the noise of a discrete variance-preserving process grows, in diffusers' terms (Ho 2020, section 2).

    `trained_betas`, where given, replaces the named schedule. `zero_terminal_snr` moves the last timestep to (almost)
    pure noise, Lin 2024, algorithm 1.
    """

    num_train_timesteps: int = 1000
    beta_schedule: str = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    trained_betas: tuple[float, ...] | None = None
    zero_terminal_snr: bool = False

    def __post_init__(self) -> None:
        if self.trained_betas is None and self.beta_schedule not in BETA_SCHEDULES:
            raise ValueError(f"beta_schedule={self.beta_schedule!r} is not one of {', '.join(BETA_SCHEDULES)}")
        if self.num_train_timesteps < 2:
            raise ValueError(f"num_train_timesteps={self.num_train_timesteps} is too few; at least 2 are needed")

    def alphas_cumprod(self) -> np.ndarray:
        """alpha^2 of each training timestep: (num_train_timesteps,) float64, falling, in (0, 1)."""
        if self.trained_betas is not None:
            betas = np.asarray(self.trained_betas, dtype=np.float64)
        else:
            betas = BETA_SCHEDULES[self.beta_schedule](self.num_train_timesteps, self.beta_start, self.beta_end)
        alpha_bar: np.ndarray = np.cumprod(1.0 - betas)
        if self.zero_terminal_snr:
            return zero_terminal_snr(alpha_bar)
        return alpha_bar


def _linear(count: int, start: float, end: float) -> np.ndarray:
    return np.linspace(start, end, count)


def _scaled_linear(count: int, start: float, end: float) -> np.ndarray:
    return np.linspace(math.sqrt(start), math.sqrt(end), count) ** 2


def _sigmoid(count: int, start: float, end: float) -> np.ndarray:
    return start + (end - start) / (1.0 + np.exp(-np.linspace(-6.0, 6.0, count)))


def _squared_cosine(count: int, start: float, end: float) -> np.ndarray:
    """Nichol & Dhariwal 2021, eq. 17; each beta is capped at 0.999. `start` and `end` have no part in it."""
    del start, end
    alpha_bar = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * math.pi / 2) ** 2
    betas: np.ndarray = np.minimum(1.0 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
    return betas


BETA_SCHEDULES = {
    "linear": _linear,
    "scaled_linear": _scaled_linear,
    "squaredcos_cap_v2": _squared_cosine,
    "sigmoid": _sigmoid,
}


def zero_terminal_snr(alpha_bar: np.ndarray) -> np.ndarray:
    """Shift and stretch sqrt(alpha_bar) so that it ends at 0 and begins where it did (Lin 2024, algorithm 1).

    alpha_bar: (T,), falling. The last value becomes 2^-24 rather than 0, which keeps lambda finite, with
    sigma / alpha = 4096; less where the value before it is below that already, as of a linear schedule to 0.02.
    """
    alpha = np.sqrt(alpha_bar)
    rescaled: np.ndarray = np.square((alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1]))
    rescaled[-1] = 2.0**-24 if rescaled[-2] > 2.0**-24 else rescaled[-2] / 4.0
    return rescaled


class DiscreteVP:
    """Variance preserving over T training timesteps; timestep k lies at t = (k + 1) / T, so that t = 0 is clean.

    Between timesteps lambda is linear in t (sigma / alpha is log-linear, as in k-diffusion); below the first timestep
    sigma / alpha falls linearly to 0.
    """

    def __init__(self, alphas_cumprod: Sequence[float] | np.ndarray) -> None:
        """alphas_cumprod: (T,), alpha^2 by timestep, falling, each in (0, 1). Raises ValueError where it is not so."""
        alpha_bar = np.asarray(alphas_cumprod, dtype=np.float64)
        if alpha_bar.ndim != 1 or len(alpha_bar) < 2:
            raise ValueError(f"alphas_cumprod has shape {alpha_bar.shape}; it must be one list of at least 2 values")
        if not (np.all(np.diff(alpha_bar) < 0) and alpha_bar[-1] > 0 and alpha_bar[0] < 1):
            raise ValueError(
                f"alphas_cumprod must fall and stay between 0 and 1, but runs from {alpha_bar[0]} to {alpha_bar[-1]}"
            )
        self.alphas_cumprod = alpha_bar
        self._lambdas = 0.5 * (np.log(alpha_bar) - np.log1p(-alpha_bar))  # (T,) falling

    @classmethod
    def from_betas(cls, config: BetaConfig) -> DiscreteVP:
        """The process of a beta schedule."""
        return cls(config.alphas_cumprod())

    @property
    def num_train_timesteps(self) -> int:
        """T, the number of training timesteps."""
        return len(self._lambdas)

    @property
    def first_time(self) -> float:
        """The time of timestep 0."""
        return 1.0 / self.num_train_timesteps

    def lambda_(self, t: float) -> float:
        """log(alpha / sigma)."""
        if t <= 0.0:
            return math.inf
        position = t * self.num_train_timesteps
        if position < 1.0:
            return float(self._lambdas[0]) - math.log(position)
        below = min(int(position - 1.0), self.num_train_timesteps - 2)
        part = min(position - 1.0 - below, 1.0)
        return float((1.0 - part) * self._lambdas[below] + part * self._lambdas[below + 1])

    def time_of_lambda(self, lambda_: float) -> float:
        """Inverse of `lambda_`."""
        if lambda_ >= self._lambdas[0]:
            return math.exp(float(self._lambdas[0]) - lambda_) / self.num_train_timesteps
        index = np.interp(-lambda_, -self._lambdas, np.arange(self.num_train_timesteps))
        return (float(index) + 1.0) / self.num_train_timesteps

    def alpha(self, t: float) -> float:
        """sqrt(alpha_bar)."""
        return 1.0 / math.sqrt(1.0 + math.exp(-2.0 * self.lambda_(t)))

    def sigma(self, t: float) -> float:
        """sqrt(1 - alpha_bar)."""
        return 0.0 if t <= 0.0 else 1.0 / math.sqrt(1.0 + math.exp(min(2.0 * self.lambda_(t), 700.0)))

    def scale(self, t: float) -> float:
        """alpha: stepping happens in Karras' variance-exploding picture of the process."""
        return self.alpha(t)

    def level(self, t: float) -> float:
        """sigma / alpha, which k-diffusion calls sigma."""
        return math.exp(-self.lambda_(t))

    def time_of_level(self, level: float) -> float:
        """Inverse of `level`."""
        return 0.0 if level <= 0.0 else self.time_of_lambda(-math.log(level))

    def timestep(self, t: float) -> float:
        """Training timestep at t, between whole numbers where t is; 0 below the first."""
        timestep = max(t * self.num_train_timesteps - 1.0, 0.0)
        whole = float(round(timestep))
        return whole if abs(timestep - whole) < 1e-7 else timestep  # undo the rounding of (k + 1) / T

    def time_of_timestep(self, timestep: float) -> float:
        """t of a training timestep in [0, T - 1]."""
        return (timestep + 1.0) / self.num_train_timesteps

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma), each (B, 1, 1, 1) float32, of times (B,)."""
        return _batched(self, t)


@dataclass(frozen=True, kw_only=True)
class KarrasVE:
    """Variance exploding (Karras 2022): alpha = 1, sigma(t) = sigma_max * t^rho.

    With rho = 7 equal steps in t are close to Karras' own spacing (his eq. 5) and reach 0 at t = 0.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    @property
    def first_time(self) -> float:
        """The time at which sigma is sigma_min."""
        return float((self.sigma_min / self.sigma_max) ** (1.0 / self.rho))

    def alpha(self, t: float) -> float:
        """Always 1."""
        del t
        return 1.0

    def sigma(self, t: float) -> float:
        """sigma_max at t = 1."""
        return float(self.sigma_max * t**self.rho)

    def lambda_(self, t: float) -> float:
        """-log sigma."""
        return math.inf if t <= 0.0 else -math.log(self.sigma(t))

    def time_of_lambda(self, lambda_: float) -> float:
        """Inverse of `lambda_`."""
        return float(min((math.exp(-lambda_) / self.sigma_max) ** (1.0 / self.rho), 1.0))

    def scale(self, t: float) -> float:
        """1: x itself."""
        del t
        return 1.0

    def level(self, t: float) -> float:
        """sigma."""
        return self.sigma(t)

    def time_of_level(self, level: float) -> float:
        """Inverse of `level`."""
        return 0.0 if level <= 0.0 else self.time_of_lambda(-math.log(level))

    def timestep(self, t: float) -> float:
        """c_noise = log(sigma) / 4 (Karras 2022, table 1)."""
        return 0.25 * math.log(max(self.sigma(t), 1e-20))

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma), each (B, 1, 1, 1) float32, of times (B,)."""
        return _batched(self, t)


@dataclass(frozen=True, kw_only=True)
class RectifiedFlow:
    """Rectified flow (Liu 2022): alpha = 1 - sigma, sigma = shift * t / (1 + (shift - 1) * t) (Esser 2024, eq. 23).

    shift = 1 gives sigma = t; larger pictures want larger shifts (3 in SD 3). The network is told 1000 * sigma.
    """

    shift: float = 1.0
    num_train_timesteps: int = 1000

    # At t = 1 there is no signal and lambda would be -inf; this much is taken for it instead.
    _LEAST_ALPHA = 1e-6

    def __post_init__(self) -> None:
        if not self.shift > 0:
            raise ValueError(f"shift={self.shift} must be greater than 0; 1 is no shift")

    @property
    def first_time(self) -> float:
        """The time whose sigma is 1 / num_train_timesteps."""
        return self._time_of_sigma(1.0 / self.num_train_timesteps)

    def sigma(self, t: float) -> float:
        """In [0, 1]."""
        return self.shift * t / (1.0 + (self.shift - 1.0) * t)

    def alpha(self, t: float) -> float:
        """1 - sigma."""
        return (1.0 - t) / (1.0 + (self.shift - 1.0) * t)

    def lambda_(self, t: float) -> float:
        """log((1 - sigma) / sigma)."""
        return math.inf if t <= 0.0 else math.log(max(self.alpha(t), self._LEAST_ALPHA) / self.sigma(t))

    def time_of_lambda(self, lambda_: float) -> float:
        """Inverse of `lambda_`."""
        return 0.0 if lambda_ > 700.0 else self._time_of_sigma(1.0 / (1.0 + math.exp(lambda_)))

    def _time_of_sigma(self, sigma: float) -> float:
        return sigma / (self.shift - (self.shift - 1.0) * sigma)

    def scale(self, t: float) -> float:
        """alpha + sigma = 1: the path is straight in x itself."""
        del t
        return 1.0

    def level(self, t: float) -> float:
        """sigma."""
        return self.sigma(t)

    def time_of_level(self, level: float) -> float:
        """Inverse of `level`."""
        return self._time_of_sigma(level)

    def timestep(self, t: float) -> float:
        """1000 * sigma."""
        return self.num_train_timesteps * self.sigma(t)

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma), each (B, 1, 1, 1) float32, of times (B,)."""
        return _batched(self, t)


def _batched(process: Process, t: Tensor) -> tuple[Tensor, Tensor]:
    """A training batch has a few hundred times at most, so that calling the exact scalar functions costs nothing."""
    times = t.detach().cpu().to(torch.float64).tolist()
    pairs = torch.tensor([(process.alpha(u), process.sigma(u)) for u in times], dtype=torch.float64)
    alpha, sigma = pairs.to(torch.float32).to(t.device).reshape(-1, 2, 1, 1, 1).unbind(1)  # (B, 1, 1, 1) each
    return alpha, sigma
