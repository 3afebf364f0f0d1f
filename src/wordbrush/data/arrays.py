"""Data sets that are one array of small pictures: MNIST's IDX files and CIFAR's batches."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

import numpy as np

from wordbrush.data.dataset import Dataset
from wordbrush.errors import RequestError


class ArrayDataset(Dataset):
    """Pictures of one size, in memory, with the numbers of their classes."""

    def __init__(
        self, name: str, pictures: np.ndarray, numbers: np.ndarray, labels: Sequence[str], template: str = "{}"
    ) -> None:
        """
        Args:
            name: what keys begin with.
            pictures: (N, H, W) grey or (N, H, W, 3) colours, uint8.
            numbers: (N,) of the classes.
            labels: their names.
            template: the caption, {} for the name.

        Raises:
            RequestError: there are no pictures, or a number has no name.
        """
        if not len(pictures):
            raise RequestError(f"{name} has no pictures")
        wrong = np.flatnonzero((numbers < 0) | (numbers >= len(labels)))
        if len(wrong):
            raise RequestError(
                f"{name}: picture {wrong[0]} is of class {numbers[wrong[0]]}, but the {len(labels)} classes are "
                f"numbered from 0 to {len(labels) - 1}"
            )
        self.name, self.pictures, self.numbers, self.template = name, pictures, numbers, template
        self.labels = tuple(labels)

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def common_size(self) -> tuple[int, int]:
        return self.pictures.shape[2], self.pictures.shape[1]

    def image(self, index: int) -> np.ndarray:
        picture = self.pictures[index]
        return np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else np.ascontiguousarray(picture)

    def caption(self, index: int, draw: random.Random | None = None) -> str:
        assert self.labels is not None
        return self.template.replace("{}", self.labels[self.numbers[index]].replace("_", " "))

    def label(self, index: int) -> int:
        return int(self.numbers[index])

    def key(self, index: int) -> str:
        return f"{self.name}/{index}"

    def digest(self, index: int) -> str:
        return hashlib.sha256(self.image(index).tobytes() + str(self.common_size).encode()).hexdigest()

    def size(self, index: int) -> tuple[int, int]:
        return self.common_size
