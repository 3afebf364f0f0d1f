"""How many rows go through the U-Net at once, and how to give them to it without changing their bits.

A kernel may add up the same numbers in another order when the batch has another size. Measured with torch 2.13 on an x86
CPU (docs and `tests/runtime/test_batching.py`): from two rows on, every row's bits are the same in any batch, in bfloat16
as in float32, as long as all rows share one time embedding; a single row may differ, and is therefore run twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from wordbrush.networks.unet import PreparedContext, UNet
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
    return list(zip(edges, edges[1:], strict=False))


def batched_network(
    unet: UNet, context: PreparedContext, rows: Sequence[int], size: tuple[int, int], runtime: Runtime
) -> Callable[[Tensor, float], Tensor]:
    """The U-Net as a function of (x: (R, C, h, w), timestep), with row i reading row `rows[i]` of the prepared context.

    size: (h, w). The contexts of the calls are put together here, once, and not at every step.
    """
    most = rows_per_call(*size, runtime.device)
    plan: list[tuple[int, int, PreparedContext]] = []
    gathered: dict[tuple[int, ...], PreparedContext] = {}
    for start, stop in spans(len(rows), most):
        index = tuple(rows[start:stop])
        if len(index) == 1:
            index = index * 2
        if index not in gathered:
            one = len(set(index)) == 1  # one row serves the whole call
            gathered[index] = context.rows(torch.tensor(index[:1] if one else index, device=runtime.device))
        plan.append((start, stop, gathered[index]))

    def network(x: Tensor, timestep: float) -> Tensor:
        time = torch.tensor([timestep], device=runtime.device)  # one for all rows: embedded once
        x = x.to(device=runtime.device, dtype=runtime.dtype)
        outputs = []
        for start, stop, piece in plan:
            part = x[start:stop] if stop - start > 1 else x[start:stop].repeat(2, 1, 1, 1)
            part = part.contiguous(memory_format=torch.channels_last)
            outputs.append(unet(part, time, piece)[: stop - start])
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    return network
