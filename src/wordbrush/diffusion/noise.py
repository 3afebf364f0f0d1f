"""Noise for pictures: one CPU generator per picture, so that a picture does not depend on its neighbours in a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Noise = Callable[[], Tensor]
"""() -> the next unit-variance noise of a batch, (B, C, h, w)."""


class NoiseSource:
    """Draws (B, C, h, w) float32 standard normal noise on the CPU, each picture's from its own seeded generator.

    The same seed gives the same bits alone or in any batch, call by call.
    """

    def __init__(self, seeds: Sequence[int], shape: Sequence[int]) -> None:
        """seeds: one per picture; shape: (C, h, w) of one picture. Raises ValueError for an empty or overlong seed."""
        if not seeds:
            raise ValueError("NoiseSource needs at least one seed, one for each picture")
        for seed in seeds:
            if not -(2**63) <= seed < 2**64:
                raise ValueError(f"seed={seed} does not fit in 64 bits; use one between 0 and {2**64 - 1}")
        self.shape = tuple(shape)
        self._generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]

    @classmethod
    def for_batch(cls, seed: int, count: int, shape: Sequence[int]) -> NoiseSource:
        """The noise of pictures 0…count-1 of a request: picture `index` has seed + index."""
        return cls([seed + index for index in range(count)], shape)

    def __call__(self) -> Tensor:
        return torch.stack([torch.randn(self.shape, generator=g, dtype=torch.float32) for g in self._generators])
