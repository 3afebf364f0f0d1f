"""Writing CIFAR-10's Python version as its authors wrote it: by Python 2's pickle, protocol 2, keys and all.

Python 3 would write other kinds of text, which the many programs that read CIFAR do not expect; so the few
instructions that are needed are written here.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


def write_cifar10(folder: Path, batches: Mapping[str, tuple[np.ndarray, Sequence[int]]], labels: Sequence[str]) -> None:
    """Writes data_batch_1 ... test_batch and batches.meta.

    batches: (N, 32, 32, 3) uint8 pictures and the numbers of their classes, by the file's name.
    """
    for name, (pictures, numbers) in batches.items():
        planes = np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)).reshape(len(pictures), -1)
        stem = name.removeprefix("data_batch_").removesuffix("_batch")
        which = "testing batch 1 of 1" if stem == "test" else f"training batch {stem} of 5"
        names = [f"{labels[number].replace(' ', '_')}_s_{place:06}.png" for place, number in enumerate(numbers)]
        table = {"batch_label": which, "labels": list(numbers), "data": planes, "filenames": names}
        (folder / name).write_bytes(python2_pickle(table))
    meta = {"num_cases_per_batch": len(batches["data_batch_1"][0]), "label_names": list(labels), "num_vis": 3072}
    (folder / "batches.meta").write_bytes(python2_pickle(meta))


def python2_pickle(value: object) -> bytes:
    """A pickle of dicts, lists, whole numbers, texts (as Python 2's, of bytes) and arrays of bytes."""
    return b"\x80\x02" + _pickled(value) + b"."


def _pickled(value: object) -> bytes:
    match value:
        case dict():
            return b"}(" + b"".join(_pickled(key) + _pickled(each) for key, each in value.items()) + b"u"
        case list():
            return b"](" + b"".join(map(_pickled, value)) + b"e"
        case str():
            return _text(value.encode("latin-1", "replace"))
        case int():
            return b"J" + struct.pack("<i", value)
        case np.ndarray():
            return _array(value)
    raise TypeError(f"{type(value).__name__} has no place in CIFAR's files")


def _text(data: bytes) -> bytes:
    return b"U" + bytes([len(data)]) + data if len(data) < 256 else b"T" + struct.pack("<i", len(data)) + data


def _array(array: np.ndarray) -> bytes:
    """numpy.core.multiarray._reconstruct(ndarray, (0,), "b") and its state, as NumPy of that time pickled bytes."""
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + _pickled(0) + b"\x85" + _text(b"b") + b"\x87R"
    shape = b"(" + b"".join(_pickled(side) for side in array.shape) + b"t"
    kind = b"cnumpy\ndtype\n" + _text(b"u1") + _pickled(0) + _pickled(1) + b"\x87R"
    nothing = _pickled(-1)
    kind += b"(" + _pickled(3) + _text(b"|") + b"NNN" + nothing + nothing + _pickled(0) + b"tb"
    state = b"(" + _pickled(1) + shape + kind + b"\x89" + _text(array.tobytes()) + b"t"
    return made + state + b"b"
