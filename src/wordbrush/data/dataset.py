"""What a data set is to everything that trains: pictures by number, with captions, labels and a content hash.

A data set is opened once and then read at random, by any number of threads and processes: it keeps no open file and no
place in one. What is random about reading (which of several captions, which attributes) is drawn from the `draw` that
the caller gives, so that the same number and the same draw always give the same example.
"""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wordbrush.data.buckets import shuffler
from wordbrush.errors import RequestError
from wordbrush.pictures import as_rgb, picture_size, unpack_picture


class BadExample(RequestError):
    """One example of a data set cannot be used; `skip_bad` passes over it.

    Attributes:
        key: which, by name.
    """

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key

    def __reduce__(self) -> tuple[type[BadExample], tuple[str, str]]:
        return type(self), (self.key, str(self))  # worker processes send it whole


@dataclass(frozen=True, kw_only=True)
class Example:
    """One picture and what is said of it.

    Attributes:
        image: (H, W, 3) uint8.
        caption: "" where nothing is said.
        label: number of the class, counted as in `Dataset.labels`; None where there are none.
        key: its name in the data set, the same for ever.
    """

    image: np.ndarray
    caption: str
    label: int | None
    key: str


class Dataset(ABC):
    """Pictures numbered from 0.

    Attributes:
        labels: the names of the classes; None where pictures have none.
        bad: what was found unusable when the data set was opened and is therefore not in it: name and reason.
    """

    labels: tuple[str, ...] | None = None
    bad: Sequence[tuple[str, str]] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def image(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8, upright, what is transparent on white. Raises BadExample."""

    @abstractmethod
    def key(self, index: int) -> str:
        """The name of an example."""

    @abstractmethod
    def digest(self, index: int) -> str:
        """A hash, in hex, of all that decides the pixels of `image`: another picture has another. Raises BadExample."""

    @abstractmethod
    def size(self, index: int) -> tuple[int, int]:
        """Width and height of the upright picture, without unpacking it. Raises BadExample."""

    @property
    def common_size(self) -> tuple[int, int] | None:
        """The size of all pictures, where it is known to be the same."""
        return None

    def caption(self, index: int, draw: random.Random | None = None) -> str:
        """What is said of a picture; where that is one of many sayings, `draw` chooses, and None is the first."""
        return ""

    def label(self, index: int) -> int | None:
        """The number of its class."""
        return None

    def order(self, seed: int, epoch: int) -> Sequence[int] | np.ndarray:
        """All numbers, shuffled for this epoch (a permutation), in an order that the files are read quickly in."""
        return shuffler(f"order/{seed}/{epoch}").permutation(len(self))

    def read(self, index: int, draw: random.Random | None = None) -> Example:
        """The whole example. Raises BadExample."""
        return Example(
            image=self.image(index), caption=self.caption(index, draw), label=self.label(index), key=self.key(index)
        )


class Refusing(Dataset):
    """A data set whose examples are looked at when it is opened: the first bad one is an error, or all are left out and
    listed in `bad`.
    """

    def __init__(self, *, skip_bad: bool) -> None:
        self.skip_bad = skip_bad
        self.bad: list[tuple[str, str]] = []

    def refuse(self, key: str, message: str) -> None:
        """Raises BadExample, unless bad examples are skipped."""
        if not self.skip_bad:
            raise BadExample(key, message)
        self.bad.append((key, message))


class FileDataset(Dataset):
    """A data set with a file for each picture."""

    @abstractmethod
    def path(self, index: int) -> Path:
        """Where the picture is."""

    def image(self, index: int) -> np.ndarray:
        return decode_picture(self._bytes(index), self.key(index), self._name(index))

    def digest(self, index: int) -> str:
        return hashlib.sha256(self._bytes(index)).hexdigest()

    def size(self, index: int) -> tuple[int, int]:
        return upright_size(lambda most: self._bytes(index, most), self.key(index), self._name(index))

    def _name(self, index: int) -> str:
        return f"the picture {str(self.path(index))!r}"

    def _bytes(self, index: int, most: int = -1) -> bytes:
        try:
            with self.path(index).open("rb") as file:
                return file.read(most)
        except OSError as error:
            raise BadExample(self.key(index), f"{self._name(index)} cannot be read: {error.strerror}") from error


def decode_picture(data: bytes, key: str, name: str) -> np.ndarray:
    """(H, W, 3) uint8 of a picture file's bytes: upright, transparency on white, any mode as 8-bit colours.

    name: how a message names it.

    Raises:
        BadExample: the bytes are no whole picture.
    """
    try:
        return np.asarray(as_rgb(unpack_picture(data, name)))
    except RequestError as error:
        text = str(error)
        raise BadExample(key, text if name in text else f"{name}: {text}") from error


def upright_size(read: Callable[[int], bytes], key: str, name: str) -> tuple[int, int]:
    """Width and height of a picture file, of which as little as possible is read.

    read: gives so many of the file's first bytes, and all for -1.

    Raises:
        BadExample: it does not begin like a picture.
    """
    try:
        return picture_size(read(_HEAD), name)
    except RequestError:  # or its header is longer than that: profiles and previews can come first
        try:
            return picture_size(read(-1), name)
        except RequestError as error:
            raise BadExample(key, str(error)) from error


_HEAD = 1 << 16
