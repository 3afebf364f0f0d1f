"""What a task is to the training loop, and how it draws random numbers.

A step works on `recipe.batch` rows, numbered from 0. Processes and micro-batches each do some of them, so data and
every random draw are a function of (seed, step, row) alone: a run gives the same loss on one process as on many, and
goes on after a kill as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

Batch = dict[str, Tensor]


class Stopped(Exception):
    """What is done before the first step was told to stop; what is done so far is kept, and the rest done next time."""


class Task:
    """What is trained and on what.

    Attributes:
        modules: trained and checkpointed, by name. Parameters that do not require gradients stay as they are.
        frozen: moved to the device beside them, in evaluation mode, never trained nor checkpointed.
        rates: factors of the learning rate by module name; 1 where none is given.
        takes_turns: some steps leave some trained parameters out of the loss, as where two networks learn in turn.
        notes: what whoever trains should know beforehand, one sentence each.
        source: makes the same data as `batch` in worker processes, if it can: it is pickled, so it holds no networks.
    """

    modules: dict[str, nn.Module]
    frozen: dict[str, nn.Module]
    rates: dict[str, float]
    takes_turns: bool = False
    notes: Sequence[str] = ()
    source: Callable[[int, range], Batch] | None = None

    def __init__(self) -> None:
        self.modules, self.frozen, self.rates = {}, {}, {}

    def batch(self, step: int, rows: range) -> Batch:
        """These rows of a step's data, noise included, on the CPU; a pure function that runs in the background."""
        raise NotImplementedError

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss over the batch's rows, and figures for the log. The batch is on the networks' device.

        Nothing is drawn here but by `nn.Dropout` and its like, whose generator the loop seeds.
        """
        raise NotImplementedError

    def export(self, folder: Path, averaged: dict[str, dict[str, Tensor]]) -> None:
        """Writes the trained networks (running averages by module name) as model folders."""
        raise NotImplementedError

    def validate(self) -> dict[str, float]:
        """Figures on held-out data. The modules hold the averaged weights, in evaluation mode, without gradients.

        Every process calls it at the same step with the same weights; the main one's figures are logged.
        """
        return {}

    def samples(self) -> list[tuple[str, Image.Image]]:
        """Captioned pictures that show how far training is; called as `validate` is."""
        return []

    def close(self) -> None:
        """Ends whatever the task started in the background: for most tasks nothing."""


def row_generator(seed: int, step: int, row: int = 0) -> torch.Generator:
    """The random numbers of one row of one step, whatever came before. Draws for a whole step take those of row 0."""
    mixed = (seed * 1_000_003 + step) * 1_000_033 + row
    return torch.Generator().manual_seed(mixed % 2**63)


def normal_rows(seed: int, step: int, rows: range, shape: Sequence[int], *, purpose: int = 0) -> Tensor:
    """(len(rows), *shape) unit normal numbers, each row its own. `purpose` numbers what else a row draws."""
    drawn = [torch.randn(*shape, generator=row_generator(seed + 7_919 * purpose, step, row + 1)) for row in rows]
    return torch.stack(drawn)


def uniform_rows(seed: int, step: int, rows: range, *, purpose: int = 0) -> Tensor:
    """(len(rows),) numbers in [0, 1), each row its own."""
    drawn = [torch.rand((), generator=row_generator(seed + 7_919 * purpose, step, row + 1)) for row in rows]
    return torch.stack(drawn)
