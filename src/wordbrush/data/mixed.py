"""Several data sets as one."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from wordbrush.data.dataset import Dataset
from wordbrush.errors import RequestError


class MixedDataset(Dataset):
    """The examples of each part one after another, those of a part as often as it is repeated."""

    def __init__(self, parts: Sequence[Dataset], repeats: Sequence[int]) -> None:
        """Raises RequestError: some parts have classes and others other ones or none."""
        self.parts = list(parts)
        self.lengths = [len(part) * times for part, times in zip(parts, repeats, strict=True)]
        self.starts = np.cumsum([0, *self.lengths])
        self.bad = [entry for part in parts for entry in part.bad]
        kinds = {part.labels for part in parts}
        if len(kinds) > 1 and None not in kinds:
            raise RequestError("the parts of the mix have different classes; give them the same, or none")
        self.labels = kinds.pop() if len(kinds) == 1 else None
        sizes = {part.common_size for part in parts}
        self._common = sizes.pop() if len(sizes) == 1 else None

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def common_size(self) -> tuple[int, int] | None:
        return self._common

    def image(self, index: int) -> np.ndarray:
        part, place = self._place(index)
        return part.image(place)

    def caption(self, index: int, draw: random.Random | None = None) -> str:
        part, place = self._place(index)
        return part.caption(place, draw)

    def label(self, index: int) -> int | None:
        part, place = self._place(index)
        return None if self.labels is None else part.label(place)

    def key(self, index: int) -> str:
        number = int(np.searchsorted(self.starts, index, "right")) - 1
        return f"{number}/{self.parts[number].key(self._place(index)[1])}"

    def digest(self, index: int) -> str:
        part, place = self._place(index)
        return part.digest(place)

    def size(self, index: int) -> tuple[int, int]:
        part, place = self._place(index)
        return part.size(place)

    def _place(self, index: int) -> tuple[Dataset, int]:
        number = int(np.searchsorted(self.starts, index, "right")) - 1
        part = self.parts[number]
        return part, int(index - self.starts[number]) % len(part)
