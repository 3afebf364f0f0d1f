"""Several data sets as one."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from wordbrush.data.dataset import BadExample, Dataset
from wordbrush.errors import RequestError

_Found = TypeVar("_Found")


class MixedDataset(Dataset):
    """The examples of each part one after another, those of a part as often as it is repeated."""

    def __init__(self, parts: Sequence[Dataset], repeats: Sequence[int]) -> None:
        """Where a part has no classes, the mix has none. Raises RequestError: parts have different classes."""
        self.parts = list(parts)
        self.lengths = [len(part) * times for part, times in zip(parts, repeats, strict=True)]
        self.starts = np.cumsum([0, *self.lengths])
        self.bad = [(f"{number}/{key}", why) for number, part in enumerate(parts) for key, why in part.bad]
        kinds = {part.labels for part in parts}
        if len(kinds - {None}) > 1:
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
        return self._of_part(index, lambda part, place: part.image(place))

    def caption(self, index: int, draw: random.Random | None = None) -> str:
        return self._of_part(index, lambda part, place: part.caption(place, draw))

    def label(self, index: int) -> int | None:
        return None if self.labels is None else self._of_part(index, lambda part, place: part.label(place))

    def key(self, index: int) -> str:
        number, place = self._place(index)
        return f"{number}/{self.parts[number].key(place)}"

    def digest(self, index: int) -> str:
        return self._of_part(index, lambda part, place: part.digest(place))

    def size(self, index: int) -> tuple[int, int]:
        return self._of_part(index, lambda part, place: part.size(place))

    def _of_part(self, index: int, use: Callable[[Dataset, int], _Found]) -> _Found:
        """What a part says of its example; a bad one is named as `key` names it, since parts may use a name twice."""
        number, place = self._place(index)
        try:
            return use(self.parts[number], place)
        except BadExample as error:
            raise BadExample(f"{number}/{error.key}", str(error)) from error

    def _place(self, index: int) -> tuple[int, int]:
        """The number of a part, and of the example in it."""
        number = int(np.searchsorted(self.starts, index, "right")) - 1
        return number, int(index - self.starts[number]) % len(self.parts[number])
