"""How many rows go through the U-Net at once, and how to give them to it without changing their bits.

A kernel may add up the same numbers in another order when the batch has another size. Measured with torch 2.13 on an
x86 CPU (`tests/runtime`): in a packed network a row's bits are the same in any batch, in bfloat16 as in float32. In a
plain one a single row may differ, and is therefore run twice; beyond that they are the same in bfloat16, while in
float32 some 1×1 convolutions change kernels at 16 rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from wordbrush.networks.unet import PreparedContext, UNet
from wordbrush.runtime.packed_unet import PackedUNet
from wordbrush.runtime.policy import Runtime

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


def batched_network(
    unet: UNet | PackedUNet,
    context: PreparedContext,
    rows: Sequence[int],
    size: tuple[int, int],
    runtime: Runtime,
    *,
    copies: int = 1,
) -> Callable[[Tensor, float], Tensor]:
    """The U-Net as a function of (x: (R, C, h, w), timestep), with row i reading row `rows[i]` of the prepared context.

    The contexts of the calls are put together here, once, and not at every step.

    Args:
        size: (h, w).
        copies: how many times over x holds the same pictures, one after the other, as for the two halves of guidance.
            Whatever such rows share, a packed network computes once.
    """
    pictures = len(rows) // copies
    most = max(1, rows_per_call(*size, runtime.device) // copies)
    calls: list[tuple[int, int, PreparedContext]] = []
    gathered: dict[tuple[int, ...], PreparedContext] = {}
    for start, stop in spans(pictures, most):
        index = tuple(rows[copy * pictures + i] for copy in range(copies) for i in range(start, stop))
        if len(index) == 1:
            index = _alone(unet) * index
        if index not in gathered:
            one = len(set(index)) == 1  # one row serves the whole call
            gathered[index] = context.rows(torch.tensor(index[:1] if one else index, device=runtime.device))
        calls.append((start, stop, gathered[index]))

    def network(x: Tensor, timestep: float) -> Tensor:
        x = x.to(device=runtime.device, dtype=runtime.dtype)
        outputs = []
        for start, stop, piece in calls:
            part = x[start:stop].contiguous(memory_format=torch.channels_last)
            outputs.append(_call(unet, part, timestep, piece, copies))  # (copies, stop - start, C, h, w)
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)).flatten(0, 1)

    return network


def _alone(unet: UNet | PackedUNet) -> int:
    """How many times to compute a row that stands alone."""
    return 1 if isinstance(unet, PackedUNet) else 2


def _call(unet: UNet | PackedUNet, x: Tensor, timestep: float, context: PreparedContext, copies: int) -> Tensor:
    """One call with `copies` times the rows of x. Returns (copies, B, C, h, w)."""
    if isinstance(unet, PackedUNet):
        output = unet(x, timestep, context, copies=copies)
    else:
        repeats = _alone(unet) if len(x) * copies == 1 else copies
        time = torch.tensor([timestep], device=x.device)  # one for all rows: embedded once
        output = unet(torch.cat([x] * repeats), time, context)[: copies * len(x)]
    return output.unflatten(0, (copies, len(x)))
