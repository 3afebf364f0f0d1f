"""How many rows go through a network at once, and how to give them to it without changing their bits.

A kernel may add up the same numbers in another order when the batch has another size. Measured with torch 2.13 on an
x86 CPU (`tests/runtime`): in a packed network a row's bits are the same in any batch, in bfloat16 as in float32. In a
plain one a single row may differ, and is therefore run twice where more rows than two fit a call, and always alone
where not; beyond that they are the same in bfloat16, while in float32 some 1×1 convolutions change kernels at 16 rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from wordbrush.runtime.policy import Runtime
from wordbrush.runtime.runners import Runner, Told

# Latent positions (rows x h x w) in one call. A CPU gains nothing beyond this, and memory stays bounded.
CPU_POSITIONS = 8192
GPU_POSITIONS = 131072


def rows_per_call(height: int, width: int, device: torch.device) -> int:
    """How many rows of latents (h, w) one network call takes: at least two, always an even number."""
    positions = CPU_POSITIONS if device.type == "cpu" else GPU_POSITIONS
    return max(2, positions // (height * width) // 2 * 2)


def spans(rows: int, most: int) -> list[tuple[int, int]]:
    """(start, stop) of ceil(rows / most) nearly equal pieces."""
    pieces = -(-rows // most)
    edges = [rows * piece // pieces for piece in range(pieces + 1)]
    return list(pairwise(edges))


@dataclass(frozen=True, kw_only=True)
class Constants:
    """What a network is told alike in every row and at every step.

    Attributes:
        beside: (1, C', h, w), channels joined to x's: a mask, or the latents of a picture.
        guidance: the scale that a network distilled with guidance is told.
    """

    beside: Tensor | None = None
    guidance: float | None = None


NO_CONSTANTS = Constants()


def batched_network(
    runner: Runner,
    told: Sequence[Told],
    size: tuple[int, int],
    runtime: Runtime,
    *,
    copies: int = 1,
    constants: Constants = NO_CONSTANTS,
) -> Callable[[Tensor, float], Tensor]:
    """The network as a function of (x: (R, C, h, w), timestep), with row i told `told[i]`, which is of one row.

    What the rows of one call are told is put together here, once, and not at every step.

    Args:
        size: (h, w).
        copies: how many times over x holds the same pictures, one after the other, as for the two halves of guidance.
            Whatever such rows share, a packed network computes once.
    """
    pictures, limit = len(told) // copies, rows_per_call(*size, runtime.device)
    together = 1 if runner.apart else copies
    # a row goes always alone, rather than twice, where no more would fit
    lone = together == 1 and (runner.single or limit <= runner.alone)
    most, repeats = (1, 1) if lone else (1 if runner.single else max(1, limit // copies), runner.alone)
    calls: list[tuple[int, int, Told]] = []
    gathered: dict[tuple[int, ...], Told] = {}
    for copy in range(0, copies, together):
        for start, stop in spans(pictures, most):
            rows = [told[(copy + half) * pictures + i] for half in range(together) for i in range(start, stop)]
            one = all(row is rows[0] for row in rows)  # one row serves the whole call
            key = tuple(map(id, rows[:1] if one else rows))
            if key not in gathered:
                gathered[key] = rows[0] if one else Told.joined(rows)
            calls.append((start, stop, gathered[key]))
    beside = None if constants.beside is None else constants.beside.to(device=runtime.device, dtype=runtime.dtype)

    def network(x: Tensor, timestep: float) -> Tensor:
        x = x.to(device=runtime.device, dtype=runtime.dtype)
        outputs = []
        for start, stop, piece in calls:
            part = x[start:stop]
            if beside is not None:
                part = torch.cat([part, beside.expand(len(part), -1, -1, -1)], dim=1)
            rows = together * (stop - start)
            part = torch.cat([part] * (repeats if rows == 1 else 1)).contiguous(memory_format=torch.channels_last)
            output = runner(part, timestep, piece, copies=together, guidance=constants.guidance)[:rows]
            outputs.append(output.unflatten(0, (together, stop - start)))  # (together, stop - start, C, h, w)
        if together < copies:
            return torch.cat(outputs, dim=1)[0]  # copy after copy already
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)).flatten(0, 1)

    return network
