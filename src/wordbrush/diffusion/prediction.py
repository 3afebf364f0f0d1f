"""What a network predicts, and how that becomes the clean estimate x0.

With x = alpha * x0 + sigma * eps, a prediction type is a pair of formulas between the network's output and (x0, eps):

    epsilon   eps                                (Ho 2020)
    sample    x0
    v         alpha * eps - sigma * x0           (Salimans & Ho 2022)
    flow      eps - x0                           (Liu 2022)

Each holds for any alpha and sigma, whether or not alpha^2 + sigma^2 = 1 or alpha + sigma = 1.

Two more predict one training timestep back, and so also need alpha and sigma of that step (see `step_back`). With m the
mean of x_{t-1} given x_t and x0 (Ho 2020, eq. 7), they are

    previous    m          (Ho 2020, table 2: the mean as target)
    difference  x - m      what that step takes away from x

Both are linear in x0 and x, so x0 follows from them exactly; but the factor of x0 is about a training step's variance,
and by so much an error of the network grows in x0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from wordbrush.diffusion.process import DiscreteVP, Process

Denoiser = Callable[[Tensor, float], Tensor]
"""(x: (B, C, h, w), t in (0, 1]) -> x0 of the same shape."""

Network = Callable[[Tensor, float], Tensor]
"""(x: (B, C, h, w), timestep as `Process.timestep` gives it) -> one of the predictions, of the same shape."""

Size = float | Tensor
"""alpha or sigma: one number, or (B, 1, 1, 1)."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One prediction type."""

    to_x0: Callable[[Tensor, Tensor, Size, Size], Tensor]
    """(output, x, alpha, sigma) -> x0."""
    from_x0: Callable[[Tensor, Tensor, Size, Size], Tensor]
    """(x0, x, alpha, sigma) -> the output that means x0; sigma > 0."""
    target: Callable[[Tensor, Tensor, Size, Size], Tensor]
    """(x0, eps, alpha, sigma) -> what the network should output: the training target."""


def _eps_of(x0: Tensor, x: Tensor, alpha: Size, sigma: Size) -> Tensor:
    return (x - alpha * x0) / sigma


PREDICTIONS: dict[str, Prediction] = {
    "epsilon": Prediction(
        to_x0=lambda out, x, alpha, sigma: (x - sigma * out) / alpha,
        from_x0=_eps_of,
        target=lambda x0, eps, alpha, sigma: eps,
    ),
    "sample": Prediction(
        to_x0=lambda out, x, alpha, sigma: out,
        from_x0=lambda x0, x, alpha, sigma: x0,
        target=lambda x0, eps, alpha, sigma: x0,
    ),
    "v": Prediction(
        to_x0=lambda out, x, alpha, sigma: (alpha * x - sigma * out) / (alpha**2 + sigma**2),
        from_x0=lambda x0, x, alpha, sigma: alpha * _eps_of(x0, x, alpha, sigma) - sigma * x0,
        target=lambda x0, eps, alpha, sigma: alpha * eps - sigma * x0,
    ),
    "flow": Prediction(
        to_x0=lambda out, x, alpha, sigma: (x - sigma * out) / (alpha + sigma),
        from_x0=lambda x0, x, alpha, sigma: _eps_of(x0, x, alpha, sigma) - x0,
        target=lambda x0, eps, alpha, sigma: eps - x0,
    ),
}


def get_prediction(name: str) -> Prediction:
    """The prediction type of that name; raises ValueError with the names there are."""
    if name not in PREDICTIONS:
        raise ValueError(f"prediction type {name!r} is unknown; there are {', '.join(sorted(PREDICTIONS))}")
    return PREDICTIONS[name]


STEPWISE = ("previous", "difference")
"""Predictions of one training timestep back."""


def step_back(name: str, here: tuple[Size, Size], before: tuple[Size, Size]) -> tuple[Size, Size]:
    """(a, b) such that the output of a stepwise prediction is a * x0 + b * x.

    x_{t-1} given x_t and x0 has the mean (alpha_ts * sigma_s^2 * x + alpha_s * sigma_ts^2 * x0) / sigma^2, where
    alpha_ts = alpha / alpha_s and sigma_ts^2 = sigma^2 - alpha_ts^2 * sigma_s^2 (Ho 2020, eq. 7, for any process).

    Args:
        name: "previous" or "difference".
        here: (alpha, sigma) of x, sigma > 0.
        before: (alpha_s, sigma_s), one training timestep less noisy; (1, 0) before the first.
    """
    (alpha, sigma), (alpha_s, sigma_s) = here, before
    ratio = alpha / alpha_s
    of_x = ratio * sigma_s**2 / sigma**2
    of_x0 = alpha_s * (1 - (ratio * sigma_s / sigma) ** 2)
    return (of_x0, of_x) if name == "previous" else (-of_x0, 1 - of_x)


def network_denoiser(
    network: Network,
    process: Process,
    prediction: str,
    timestep_of: Callable[[float], float] | None = None,
) -> Denoiser:
    """Turn a network into a denoiser: the one place where prediction types and timesteps are known.

    timestep_of: what the network is told of t; `process.timestep` unless given (`TimePlan.timestep` where a plan is).
    The arithmetic is in x's dtype, whatever the network returns.
    """
    told = process.timestep if timestep_of is None else timestep_of
    if prediction in STEPWISE:
        return _stepwise_denoiser(network, process, prediction, told)
    to_x0 = get_prediction(prediction).to_x0

    def denoiser(x: Tensor, t: float) -> Tensor:
        output = network(x, told(t)).to(x.dtype)
        # epsilon says nothing of x0 where there is no signal at all (a flow's t = 1); any small alpha will do there
        return to_x0(output, x, max(process.alpha(t), 1e-6), process.sigma(t))

    return denoiser


def _stepwise_denoiser(
    network: Network, process: Process, prediction: str, told: Callable[[float], float]
) -> Denoiser:
    if not isinstance(process, DiscreteVP):
        raise ValueError(f"prediction type {prediction!r} needs training timesteps to step back; this process has none")
    step = 1.0 / process.num_train_timesteps

    def denoiser(x: Tensor, t: float) -> Tensor:
        s = max(t - step, 0.0)
        before = (1.0, 0.0) if s < 1e-9 else (process.alpha(s), process.sigma(s))
        of_x0, of_x = step_back(prediction, (process.alpha(t), process.sigma(t)), before)
        return (network(x, told(t)).to(x.dtype) - cast(float, of_x) * x) / cast(float, of_x0)

    return denoiser
