"""Muon against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wordbrush.training.muon import Muon, orthogonalised

SHAPES = ((8, 24), (24, 8), (16, 16), (8, 24), (24, 8), (3, 40))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_steps_are_those_of_torch(decay: float) -> None:
    def drawn(seed: int) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return [torch.randn(shape, generator=generator) for shape in SHAPES]

    ours, theirs = ([nn.Parameter(value) for value in drawn(0)] for _ in range(2))
    pair = (
        Muon(ours, lr=0.01, weight_decay=decay),
        torch.optim.Muon(theirs, lr=0.01, weight_decay=decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
    )
    for step in range(4):
        for parameters, optimiser in zip((ours, theirs), pair, strict=True):
            for parameter, gradient in zip(parameters, drawn(step + 1), strict=True):
                parameter.grad = gradient
            optimiser.step()
    for one, other, start in zip(ours, theirs, drawn(0), strict=True):
        moved = (other - start).abs().max()
        assert (one - other).abs().max() < 0.02 * moved  # bfloat16 sums in another order


def test_orthogonal_and_no_vectors() -> None:
    x = orthogonalised(torch.randn(3, 16, 64, generator=torch.Generator().manual_seed(1)))
    values = torch.linalg.svdvals(x.float())
    assert values.min() > 0.5
    assert values.max() < 1.5
    with pytest.raises(ValueError, match=r"\(4,\)"):
        Muon([nn.Parameter(torch.zeros(4))], lr=0.1)
