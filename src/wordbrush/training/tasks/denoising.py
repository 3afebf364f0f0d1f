"""What the tasks that train a denoiser share: a row's draws, the network's loss, the loss at each noise level."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from wordbrush.diffusion.plan import SamplingConfig
from wordbrush.networks.unet import UNet, with_time_band
from wordbrush.training.objectives import Levels, Noising, Objective, draw_times, loss_rows, noised, offset, target_of
from wordbrush.training.task import Batch, normal_rows, row_generator

# What a row draws besides its noise; numbers of `purpose`. Tasks count on from the last.
PERTURBATION, OFFSET, DROPPED, NEXT = 1, 2, 3, 4

_LEVELS = tuple(field.name for field in fields(Levels))


class Draws:
    """A step's times and noise; holds no networks, so that worker processes can have it."""

    def __init__(self, objective: Objective, sampling: SamplingConfig, *, seed: int, batch: int) -> None:
        """batch: rows of a step. Raises RequestError as `Noising` does."""
        self.objective, self.noising = objective, Noising(sampling)
        self.seed, self.batch = seed, batch

    def __call__(self, step: int, rows: range, shape: Sequence[int]) -> Batch:
        """The levels of those rows, (B,) each, and `eps`, (B, *shape), with `perturbation` where the recipe has it."""
        objective, seed = self.objective, self.seed
        times = draw_times(objective.times, self.batch, row_generator(seed, step))
        eps = normal_rows(seed, step, rows, shape)
        if objective.offset_noise:
            shift = normal_rows(seed, step, rows, (shape[0], 1, 1), purpose=OFFSET)
            eps = offset(eps, shift, objective.offset_noise)
        drawn = levels_batch(self.noising.at(times).rows(rows)) | {"eps": eps}
        if objective.input_perturbation:
            amount = objective.input_perturbation
            drawn["perturbation"] = amount * normal_rows(seed, step, rows, shape, purpose=PERTURBATION)
        return drawn


def levels_batch(levels: Levels) -> Batch:
    """Levels as tensors of a batch, in float32 for devices that have no float64; whole timesteps stay whole."""
    found = {name: getattr(levels, name) for name in _LEVELS}
    return {name: value.float() if value.is_floating_point() else value for name, value in found.items()}


def levels_of(batch: Mapping[str, Tensor]) -> Levels:
    """The levels of a batch."""
    return Levels(**{name: batch[name] for name in _LEVELS})


@dataclass(frozen=True, kw_only=True)
class Told:
    """What the network is told beside time: context (B or 1, L, D), and labels (B,) or (B, P) where it takes them."""

    context: Tensor
    labels: Tensor | None = None


def denoising_rows(network: UNet, draws: Draws, x0: Tensor, batch: Batch, told: Told) -> Tensor:
    """(B,) losses of the network's answers on noised x0, (B, C, h, w); time is a band where the network has one."""
    shape, levels = (-1, 1, 1, 1), levels_of(batch)
    alpha, sigma = levels.alpha.view(shape), levels.sigma.view(shape)
    x, timesteps = noised(x0, batch["eps"], alpha, sigma, batch.get("perturbation")), levels.timesteps
    if network.config.in_channels == x.shape[1] + 1:
        x, timesteps = with_time_band(x, timesteps)
    x = x.contiguous(memory_format=torch.channels_last)
    output = network(x, timesteps, told.context, labels=told.labels)
    target = target_of(draws.noising.prediction, x0, batch["eps"], levels)
    return loss_rows(draws.objective, draws.noising.prediction, output, target, levels)


def held_out_levels(draws: Draws, count: int, rows: range) -> tuple[Levels, Tensor]:
    """Levels and times (B,) of held-out rows: row r is tested at the r-th of `count` even times, around and around."""
    times = (torch.tensor([row % count for row in rows], dtype=torch.float64) + 0.5) / count
    return draws.noising.at(times), times


def losses_by_level(
    rows: Callable[[range], tuple[Tensor, Tensor]], total: int, size: int
) -> dict[str, float]:
    """The mean loss, and that at each time, of held-out rows.

    Args:
        rows: a range of row numbers -> their times (B,) and losses (B,).
        total: how many rows there are; size: how many at once.
    """
    sums: dict[float, list[float]] = {}
    for part in _parts(total, size):
        times, losses = rows(part)
        for time, loss in zip(times.tolist(), losses.tolist(), strict=True):
            sums.setdefault(round(time, 3), []).append(loss)
    means = {time: sum(values) / len(values) for time, values in sorted(sums.items())}
    return {"loss": sum(means.values()) / len(means)} | {f"loss_t{time:.2f}": mean for time, mean in means.items()}


def _parts(total: int, size: int) -> Iterator[range]:
    for start in range(0, total, size):
        yield range(start, min(start + size, total))
