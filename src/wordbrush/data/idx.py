"""MNIST's files (LeCun 1998) and those of the sets in the same layout: Fashion-MNIST, KMNIST, EMNIST.

magic    0, 0, type of the numbers (8: unsigned bytes), number of dimensions
sizes    of each dimension, 4 bytes, the highest first
numbers  in rows
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from wordbrush.data.arrays import ArrayDataset
from wordbrush.errors import RequestError

_BYTES = 8
_WHAT = {1: "labels", 3: "pictures"}
_STARTS = {"train": ("train",), "test": ("t10k", "test")}


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The unsigned bytes of a file with so many dimensions: 3 for pictures (N, H, W), 1 for labels (N,).

    Raises:
        RequestError: it is not there, is of another kind, or is not as long as it says.
    """
    what = f"the IDX file {str(path)!r}"
    data = _unpacked(path, what)
    if len(data) < 4 or data[:2] != b"\0\0":
        found = data[:4].hex(" ") or "nothing"
        raise RequestError(f"{what} does not begin with an IDX file's two zeros but with {found}")
    if data[2] != _BYTES or data[3] != dimensions:
        magic, wanted = int.from_bytes(data[:4], "big"), _BYTES << 8 | dimensions
        raise RequestError(f"{what} has the magic number {magic}; that of {_WHAT[dimensions]} is {wanted}")
    start = 4 + 4 * dimensions
    if len(data) < start:
        raise RequestError(f"{what} ends within its header; get it again")
    shape = [int.from_bytes(data[place : place + 4], "big") for place in range(4, start, 4)]
    count = math.prod(shape)
    if len(data) != start + count:
        state = "cut short" if len(data) < start + count else "too long"
        raise RequestError(
            f"{what} is {state}: {'x'.join(map(str, shape))} numbers take {count} bytes, and there are "
            f"{len(data) - start}; get it again"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _unpacked(path: Path, what: str) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RequestError(f"{what} cannot be unpacked: {error}; get it again") from error
    except OSError as error:
        raise RequestError(f"{what} cannot be read: {error.strerror}") from error


def open_idx(
    folder: Path, split: Literal["train", "test"], names: Sequence[str] = (), template: str = "{}"
) -> ArrayDataset:
    """The data set in a folder of MNIST's four files.

    names: of the classes; none given, their numbers.

    Raises:
        RequestError: a file is missing or damaged, or pictures and labels are not as many.
    """
    pictures_file, labels_file = _file(folder, split, "images", 3), _file(folder, split, "labels", 1)
    pictures, numbers = read_idx(pictures_file, 3), read_idx(labels_file, 1).astype(np.int64)
    if pictures_file.name.startswith("emnist"):  # written column by column (Cohen 2017), unlike all others
        pictures = pictures.transpose(0, 2, 1)
    if len(pictures) != len(numbers):
        raise RequestError(
            f"{str(pictures_file)!r} has {len(pictures)} pictures, but {labels_file.name!r} has {len(numbers)} labels"
        )
    names = names or [str(number) for number in range(int(numbers.max(initial=0)) + 1)]
    return ArrayDataset(f"{folder.name}/{split}", pictures, numbers, names, template)


def _file(folder: Path, split: str, what: str, dimensions: int) -> Path:
    if not folder.is_dir():
        raise RequestError(f"there is no folder {str(folder)!r} of IDX files")
    ending = f"idx{dimensions}-ubyte"
    for start in _STARTS[split]:
        for joint in ("-", "."):
            for suffix in ("", ".gz"):
                # EMNIST's begin with the name of the part: emnist-letters-train-images-idx3-ubyte
                found = sorted(folder.glob(f"*{start}-{what}{joint}{ending}{suffix}"))
                if len(found) > 1:
                    names = " and ".join(path.name for path in found[:2])
                    raise RequestError(f"the folder {str(folder)!r} has {names}: keep each data set in its own folder")
                if found:
                    return found[0]
    raise RequestError(f"the folder {str(folder)!r} has no {_STARTS[split][0]}-{what}-{ending}, packed by gzip or not")
