"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), the Python version and the binary one, as their archives unpack.

    cifar-10-batches-py    data_batch_1 ... data_batch_5, test_batch, batches.meta
    cifar-100-python       train, test, meta
    cifar-10-batches-bin   data_batch_1.bin ... test_batch.bin, batches.meta.txt
    cifar-100-binary       train.bin, test.bin, fine_label_names.txt, coarse_label_names.txt

The Python version is pickles; they are read as data and never run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from wordbrush.data.arrays import ArrayDataset
from wordbrush.data.numpy_pickle import read_arrays
from wordbrush.errors import RequestError
from wordbrush.formats.pickle_data import NotData, Refused

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE
_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
_LAYOUTS = "cifar-10-batches-py, cifar-10-batches-bin, cifar-100-python or cifar-100-binary"


def open_cifar(
    folder: Path, split: Literal["train", "test"], *, coarse: bool = False, template: str = "{}"
) -> ArrayDataset:
    """The data set in a folder that one of the four archives unpacked to.

    coarse: the twenty superclasses of CIFAR-100 as labels.

    Raises:
        RequestError: the folder is none of these, or a file in it is missing, damaged, or would run code.
    """
    if not folder.is_dir():
        raise RequestError(f"there is no folder {str(folder)!r} of CIFAR's files")
    hundred = (folder / "meta").is_file() or (folder / "fine_label_names.txt").is_file()
    binary = any((folder / name).is_file() for name in ("batches.meta.txt", "test_batch.bin", "train.bin", "test.bin"))
    if not hundred and not binary and not (folder / "batches.meta").is_file():
        raise RequestError(f"{str(folder)!r} is not {_LAYOUTS}: it has no batches.meta and no meta")
    if coarse and not hundred:
        raise RequestError(f"{str(folder)!r} is CIFAR-10, which has no coarse classes; only CIFAR-100 does")
    names: tuple[str, ...] = ("test_batch",) if split == "test" else _BATCHES
    if hundred:
        names = (split,)
    files = [folder / (f"{name}.bin" if binary else name) for name in names]
    if binary:
        parts = [_binary(file, hundred=hundred, coarse=coarse) for file in files]
        labels = _text_names(folder / _names_file(hundred, coarse))
    else:
        key = "labels" if not hundred else "coarse_labels" if coarse else "fine_labels"
        parts = [_python(file, key) for file in files]
        named = "label_names" if not hundred else "coarse_label_names" if coarse else "fine_label_names"
        labels = _python_names(folder / ("meta" if hundred else "batches.meta"), named)
    pixels = np.concatenate([rows for rows, _ in parts]).reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
    numbers = np.concatenate([numbers for _, numbers in parts])
    return ArrayDataset(f"{folder.name}/{split}", pixels, numbers, labels, template)


def _names_file(hundred: bool, coarse: bool) -> str:
    if not hundred:
        return "batches.meta.txt"
    return "coarse_label_names.txt" if coarse else "fine_label_names.txt"


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError as error:
        raise RequestError(f"{file.parent.name} lacks the file {str(file)!r}; unpack the archive again") from error
    except OSError as error:
        raise RequestError(f"{str(file)!r} cannot be read: {error.strerror}") from error


def _binary(file: Path, *, hundred: bool, coarse: bool) -> tuple[np.ndarray, np.ndarray]:
    """Records of the label (CIFAR-100: the coarse and the fine one) and the pixels, (N, 3072), plane by plane."""
    data, heads = np.frombuffer(_bytes(file), np.uint8), 2 if hundred else 1
    if data.size == 0 or data.size % (heads + _PIXELS):
        raise RequestError(
            f"{str(file)!r} has {data.size} bytes, which is no number of records of {heads + _PIXELS}; get it again"
        )
    rows = data.reshape(-1, heads + _PIXELS)
    return rows[:, heads:], rows[:, 0 if coarse or not hundred else 1].astype(np.int64)


def _text_names(file: Path) -> list[str]:
    names = _bytes(file).decode("latin-1").split()
    if not names:
        raise RequestError(f"{str(file)!r} has no names of classes")
    return names


def _unpickled(file: Path) -> dict[Any, Any]:
    try:
        found = read_arrays(_bytes(file))
    except Refused as error:
        raise RequestError(f"{str(file)!r} is refused: opened as a pickle it would run {error}") from error
    except NotData as error:
        raise RequestError(f"{str(file)!r} cannot be read as a batch of CIFAR: {error}; {error.remedy}") from error
    if not isinstance(found, dict):
        raise RequestError(f"{str(file)!r} is no batch of CIFAR: it holds no table")
    return found


def _python(file: Path, key: str) -> tuple[np.ndarray, np.ndarray]:
    found = _unpickled(file)
    pixels, numbers = found.get("data"), found.get(key)
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != _PIXELS:
        raise RequestError(f"{str(file)!r} is no batch of CIFAR: its data are not rows of {_PIXELS} bytes")
    if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
        raise RequestError(f"{str(file)!r} is no batch of CIFAR: it has no list {key!r}")
    if len(numbers) != len(pixels):
        raise RequestError(f"{str(file)!r} has {len(pixels)} pictures, but {len(numbers)} {key}")
    return pixels, np.array(numbers, np.int64)


def _python_names(file: Path, key: str) -> list[str]:
    names = _unpickled(file).get(key)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RequestError(f"{str(file)!r} has no list {key!r} of names")
    return names
