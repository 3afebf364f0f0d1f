"""Muon (Jordan 2024): momentum whose matrices are orthogonalised; all matrices of one shape at a time.

PyTorch's own `torch.optim.Muon`, which this equals (a test holds them together), steps matrix by matrix: two thousand
small kernels for a small U-Net, which a GPU takes longer to be told than to do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that is steepest at zero (Jordan 2024)
_ITERATIONS = 5


def orthogonalised(matrices: Tensor) -> Tensor:
    """(N, r, c), r <= c, to about U Vᵀ of each matrix's U S Vᵀ, in bfloat16, by Newton-Schulz iteration."""
    a, b, c = _COEFFICIENTS
    x = matrices.bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)  # no singular value above 1
    for _ in range(_ITERATIONS):
        gram = x @ x.mT  # (N, r, r)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, scaled to be as large as AdamW's steps (Liu 2025, eq. 4)."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        *,
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        """`parameters`: matrices, or groups of them; a ValueError names the shape of any that is not."""
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim != 2:
                    raise ValueError(f"Muon steps matrices; this parameter has the shape {tuple(parameter.shape)}")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Moves every matrix that has a gradient."""
        for group in self.param_groups:
            matrices = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not matrices:
                continue
            gradients = [matrix.grad for matrix in matrices]
            for matrix in matrices:
                if "momentum_buffer" not in self.state[matrix]:
                    self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
            buffers = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
            torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
            moved = torch._foreach_lerp(gradients, buffers, group["momentum"])
            if group["weight_decay"]:
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
            alike: dict[tuple[int, int], list[int]] = defaultdict(list)
            for index, matrix in enumerate(matrices):
                alike[min(matrix.shape), max(matrix.shape)].append(index)
            for (_, longer), places in alike.items():
                tall = [matrices[i].shape[0] > matrices[i].shape[1] for i in places]
                stacked = torch.stack([moved[i].mT if t else moved[i] for i, t in zip(places, tall, strict=True)])
                steps = orthogonalised(stacked).float().unbind()
                torch._foreach_add_(
                    [matrices[i] for i in places],
                    [step.mT if t else step for step, t in zip(steps, tall, strict=True)],
                    alpha=-0.2 * longer**0.5 * group["lr"],
                )
