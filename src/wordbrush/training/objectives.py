"""What a diffusion model is trained to do, as pure functions: times, noise, targets, weights and losses.

    times      uniform; logit-normal (Esser 2024, section 3.1); stratified; part of them uniform      `draw_times`
    levels     alpha and sigma at those times, and one training timestep before                       `Noising.at`
    noise      offset noise (Guttenberg 2023); input perturbation (Ning 2023)                         `noised`
    target     eps, v, x0, flow; one step back: x_{t-1}, x_t - x_{t-1} (Ho 2020, eq. 7)               `target_of`
    weight     constant; min-SNR-gamma (Hang 2023); P2 (Choi 2022)                                    `weights_of`
    loss       mse; l1; Huber; pseudo-Huber with a constant or scheduled delta (Khrapov 2024)         `distance`

The process (linear, scaled-linear, cosine or sigmoid betas, zero terminal SNR, rectified flow with its shift) and what
is predicted are the scheduler config's to say. docs/objectives.md has every formula with its key in a recipe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from wordbrush.diffusion.plan import SamplingConfig
from wordbrush.diffusion.prediction import STEPWISE, get_prediction, step_back
from wordbrush.diffusion.process import DiscreteVP
from wordbrush.errors import RequestError
from wordbrush.training.strict import Strict

# A flow has no noise at t = 0, where there would be nothing to learn and some weights no number.
_FIRST_FLOW_TIME = 1e-4


class Times(Strict):
    """Which times are trained on; t in [0, 1), 1 is pure noise."""

    kind: Literal["uniform", "logit_normal"] = Field(
        "uniform", description="uniform, or sigmoid(mean + std * normal) (Esser 2024, section 3.1)"
    )
    mean: float = Field(0.0, description="of logit-normal times; above 0 leads to more noise")
    std: float = Field(1.0, gt=0)
    uniform_part: float = Field(
        0.0, ge=0, le=1, description="part of logit-normal times that is uniform all the same, and so reaches both ends"
    )
    stratified: bool = Field(
        True, description="a batch of n has one time in each n-th of the distribution: less noise in the gradient"
    )

    @model_validator(mode="after")
    def _fits_itself(self) -> Self:
        idle = {"mean", "std", "uniform_part"} & self.said()
        if self.kind == "uniform" and idle:
            raise ValueError(f"times.{min(idle)} has a meaning for kind: logit_normal only; uniform times have none")
        return self


class Objective(Strict):
    """Times, noise, weights and loss of a diffusion model's training; what is predicted, the scheduler says."""

    times: Times = Field(default_factory=lambda: Times.model_validate({}))
    weighting: Literal["constant", "min_snr", "p2"] = Field(
        "constant", description="of each time: constant, min-SNR-gamma (Hang 2023) or P2 (Choi 2022)"
    )
    gamma: float | None = Field(
        None, gt=0, description="of min_snr, where the weight stops growing (5 unless given), or the exponent of p2 (1)"
    )
    p2_k: float = Field(1.0, gt=0, description="k of p2's 1 / (k + SNR)^gamma")
    loss: Literal["mse", "l1", "huber", "pseudo_huber"] = "mse"
    delta: float = Field(0.1, gt=0, description="where Huber losses turn from square to straight")
    delta_schedule: Literal["constant", "exponential", "snr"] = Field(
        "constant", description="how delta falls with noise (Khrapov 2024): from 1 to delta, or by the signal's part"
    )
    offset_noise: float = Field(
        0.0, ge=0, description="spread of a number added to all noise of a picture's channel (Guttenberg 2023); 0.1"
    )
    input_perturbation: float = Field(
        0.0, ge=0, description="spread of noise in the network's input that the target does not have (Ning 2023); 0.1"
    )

    @model_validator(mode="after")
    def _fits_itself(self) -> Self:
        given = self.said()
        if self.weighting == "constant" and "gamma" in given and self.gamma is not None:
            raise ValueError("gamma has a meaning for weighting: min_snr or p2 only; constant weights have none")
        if self.weighting != "p2" and "p2_k" in given:
            raise ValueError(f"p2_k has a meaning for weighting: p2 only, not for {self.weighting}")
        if self.loss in ("mse", "l1") and {"delta", "delta_schedule"} & given:
            raise ValueError(f"delta and delta_schedule belong to loss: huber or pseudo_huber; {self.loss} has none")
        return self


@dataclass(frozen=True, kw_only=True)
class Levels:
    """Signal and noise of a batch; each (B,) float64.

    Attributes:
        t: times in (0, 1], 1 is pure noise.
        timesteps: what the network is told, 0 … 999 or 1000 * sigma of a flow.
        alpha, sigma: x = alpha * x0 + sigma * eps.
        alpha_before, sigma_before: one training timestep less noisy, (1, 0) before the first; the same as alpha and
            sigma in a flow, which has no steps.
    """

    t: Tensor
    timesteps: Tensor
    alpha: Tensor
    sigma: Tensor
    alpha_before: Tensor
    sigma_before: Tensor

    @property
    def snr(self) -> Tensor:
        """alpha^2 / sigma^2 (Kingma 2021, eq. 2)."""
        return (self.alpha / self.sigma) ** 2

    def rows(self, rows: range) -> Levels:
        """Those rows alone."""
        parts = (self.t, self.timesteps, self.alpha, self.sigma, self.alpha_before, self.sigma_before)
        t, timesteps, alpha, sigma, alpha_before, sigma_before = (part[rows.start : rows.stop] for part in parts)
        return Levels(
            t=t, timesteps=timesteps, alpha=alpha, sigma=sigma, alpha_before=alpha_before, sigma_before=sigma_before
        )


class Noising:
    """A noise process and a prediction type, as training sees them.

    Raises:
        RequestError: the prediction is of one step back and the process has no steps.
    """

    def __init__(self, sampling: SamplingConfig) -> None:
        self.process, self.prediction = sampling.process, sampling.prediction
        self.alpha_bar: Tensor | None = None  # (T,) float64 of a discrete process
        if isinstance(self.process, DiscreteVP):
            self.alpha_bar = torch.from_numpy(self.process.alphas_cumprod)
        elif self.prediction in STEPWISE:
            raise RequestError(
                f"a flow has no training timesteps, so nothing predicts its {self.prediction!r}; give the scheduler "
                "of a discrete process, such as DDPMScheduler"
            )

    def at(self, times: Tensor) -> Levels:
        """The levels at times (B,) in [0, 1); of a discrete process, at the timestep floor(t * T)."""
        if self.alpha_bar is None:
            t = times.double().clamp(min=_FIRST_FLOW_TIME)
            known = [(self.process.alpha(u), self.process.sigma(u), self.process.timestep(u)) for u in t.tolist()]
            alpha, sigma, timesteps = torch.tensor(known, dtype=torch.float64).unbind(1)
            return Levels(
                t=t, timesteps=timesteps, alpha=alpha, sigma=sigma, alpha_before=alpha, sigma_before=sigma
            )
        count = len(self.alpha_bar)
        timesteps = (times * count).long().clamp(0, count - 1)
        here = self.alpha_bar[timesteps]
        before = torch.where(timesteps > 0, self.alpha_bar[(timesteps - 1).clamp(min=0)], 1.0)
        return Levels(
            t=(timesteps + 1) / count,
            timesteps=timesteps,
            alpha=here.sqrt(),
            sigma=(1 - here).sqrt(),
            alpha_before=before.sqrt(),
            sigma_before=(1 - before).sqrt(),
        )


def draw_times(times: Times, count: int, generator: torch.Generator) -> Tensor:
    """(count,) float64 in [0, 1), the times of a whole step."""
    if times.stratified:
        places = torch.randperm(count, generator=generator)
        drawn = ((places + torch.rand(count, generator=generator)) / count).double()
    else:
        drawn = torch.rand(count, generator=generator).double()
    if times.kind == "logit_normal":
        drawn = torch.sigmoid(times.mean + times.std * torch.special.ndtri(drawn.clamp(1e-6, 1 - 1e-6)))
        uniform = torch.rand(count, generator=generator) < times.uniform_part
        drawn = torch.where(uniform, torch.rand(count, generator=generator).double(), drawn)
    return drawn.clamp(max=1 - 1e-9)


def offset(eps: Tensor, shift: Tensor, amount: float) -> Tensor:
    """eps + amount * shift (Guttenberg 2023): noise of which a picture's mean brightness can be learnt, too.

    eps: (B, C, h, w) unit noise; shift: (B, C, 1, 1) unit noise. The sum stands for eps in input and target.
    """
    return eps + amount * shift


def noised(x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor, perturbation: Tensor | None = None) -> Tensor:
    """x = alpha * x0 + sigma * (eps + perturbation) (Ho 2020, eq. 4); with a perturbation, Ning 2023, algorithm 1.

    x0, eps, perturbation: (B, C, h, w); the perturbation is amount * unit noise, and no part of the target.
    """
    return alpha * x0 + sigma * (eps if perturbation is None else eps + perturbation)


def target_of(prediction: str, x0: Tensor, eps: Tensor, levels: Levels) -> Tensor:
    """What the network should answer, (B, C, h, w), to x = alpha * x0 + sigma * eps."""
    shape = (-1, *[1] * (x0.ndim - 1))
    alpha, sigma = (part.to(x0).view(shape) for part in (levels.alpha, levels.sigma))
    if prediction not in STEPWISE:
        return get_prediction(prediction).target(x0, eps, alpha, sigma)
    of_x0, of_x = step_back(
        prediction, (levels.alpha, levels.sigma), (levels.alpha_before, levels.sigma_before)
    )
    assert isinstance(of_x0, Tensor)
    assert isinstance(of_x, Tensor)
    return of_x0.to(x0).view(shape) * x0 + of_x.to(x0).view(shape) * (alpha * x0 + sigma * eps)


def slope(prediction: str, levels: Levels) -> Tensor:
    """|d x0 / d output|, (B,): by how much an error of the output grows in x0.

    sigma / alpha for eps, 1 for x0, sigma / (alpha^2 + sigma^2) for v, sigma / (alpha + sigma) for flow.
    """
    alpha, sigma = levels.alpha, levels.sigma
    if prediction in STEPWISE:
        of_x0, _ = step_back(prediction, (alpha, sigma), (levels.alpha_before, levels.sigma_before))
        assert isinstance(of_x0, Tensor)
        return 1 / of_x0.abs()
    # every prediction is affine in its output, whose value does not matter to the slope
    one, zero = torch.ones_like(alpha), torch.zeros_like(alpha)
    to_x0 = get_prediction(prediction).to_x0
    return (to_x0(one, zero, alpha, sigma) - to_x0(zero, zero, alpha, sigma)).abs()


def weights_of(objective: Objective, prediction: str, levels: Levels) -> Tensor:
    """(B,) float64 weights of the squared error of the network's output.

    A weight w on the error of x0 is w * slope^2 on that of the output, so each is written once for every prediction:

        min_snr   min(SNR, gamma) on x0: on eps min(SNR, gamma) / SNR, on v min(SNR, gamma) / (SNR + 1) (Hang 2023)
        p2        1 / (k + SNR)^gamma on eps, which is SNR times that on x0 (Choi 2022, eq. 8)
    """
    if objective.weighting == "constant":
        return torch.ones_like(levels.alpha)
    snr, squared = levels.snr, slope(prediction, levels) ** 2
    if objective.weighting == "min_snr":
        return snr.clamp(max=5.0 if objective.gamma is None else objective.gamma) * squared
    exponent = 1.0 if objective.gamma is None else objective.gamma
    return snr * squared / (objective.p2_k + snr) ** exponent


def deltas_of(objective: Objective, levels: Levels) -> Tensor:
    """(B,) float64: delta of Huber losses at each time (Khrapov 2024, section 4.2).

    constant; exponential: delta^t, from 1 without noise to delta, where the paper has timestep / T for t, which is
    (timestep + 1) / T; snr: (1 - delta) / (1 + s)^2 + delta with s = sigma / alpha, which is 1 / sqrt(SNR).
    """
    delta = torch.full_like(levels.alpha, objective.delta)
    if objective.delta_schedule == "exponential":
        return delta**levels.t
    if objective.delta_schedule == "snr":
        share = levels.alpha / (levels.alpha + levels.sigma)  # 1 / (1 + s), which stays a number where alpha is 0
        return (1 - delta) * share**2 + delta
    return delta


def distance(kind: str, output: Tensor, target: Tensor, delta: Tensor | None = None) -> Tensor:
    """The loss of each number, of the inputs' shape; small errors of both Hubers count as in mse.

        mse            d^2
        l1             |d|
        huber          d^2 where |d| < delta, else delta * (2 |d| - delta)      (Huber 1964, times 2)
        pseudo_huber   2 * delta * (sqrt(d^2 + delta^2) - delta)                (Charbonnier 1994)

    output, target: (B, C, h, w); delta: (B,), needed by the last two.
    """
    if kind == "mse":
        return F.mse_loss(output, target, reduction="none")
    if kind == "l1":
        return F.l1_loss(output, target, reduction="none")
    if delta is None:
        raise ValueError(f"loss kind {kind!r} needs a delta")
    wide = delta.to(output).view(-1, *[1] * (output.ndim - 1))
    error = output - target
    if kind == "huber":
        size = error.abs()
        return torch.where(size < wide, error**2, wide * (2 * size - wide))
    if kind == "pseudo_huber":
        return 2 * wide * (torch.sqrt(error**2 + wide**2) - wide)
    raise ValueError(f"loss kind {kind!r} is unknown; there are mse, l1, huber, pseudo_huber")


def loss_rows(objective: Objective, prediction: str, output: Tensor, target: Tensor, levels: Levels) -> Tensor:
    """(B,) float32: each row's weighted loss, the mean over its numbers."""
    deltas = deltas_of(objective, levels) if "huber" in objective.loss else None
    rows = distance(objective.loss, output.float(), target.float(), deltas).flatten(1).mean(1)
    return rows * weights_of(objective, prediction, levels).to(rows)
