"""What a loss needs of the rows that other processes have: gathered, or averaged, over all of them.

Alone, on one process, both give back what they are given.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed


def gathered(rows: Tensor) -> Tensor:
    """(B, ...) of each process to (processes * B, ...), in order of rank; every process gives as many rows.

    Gradients flow back to the rows of all: each process's rows receive the sum of what every process's loss asks of
    them. With the loss of a process a mean over its own rows, and parameters' gradients averaged over processes as
    data-parallel training does, they are those of one process that has all rows.
    """
    if not _together():
        return rows
    gathered_rows: Tensor = _Gather.apply(rows)
    return gathered_rows


def first_row(rows: Tensor) -> int:
    """The number in `gathered(rows)` of this process's first row."""
    return distributed.get_rank() * len(rows) if _together() else 0


@torch.no_grad()
def averaged(value: Tensor) -> Tensor:
    """The mean over processes, without gradient."""
    if not _together():
        return value.detach()
    total = value.detach().clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(_world())]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        distributed.all_reduce(total)
        return total.chunk(_world())[distributed.get_rank()]


def _world() -> int:
    return distributed.get_world_size()
