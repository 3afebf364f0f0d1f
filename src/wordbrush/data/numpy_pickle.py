"""Arrays of bytes in pickles, read as data: what CIFAR's Python version is made of, by any version of Python and NumPy.

Nothing of a pickle is run (see `formats.pickle_data`): the few functions by which NumPy describes an array are stood
for by ones that only note what they were given.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np

from wordbrush.formats.pickle_data import Call, NotData, Stateful, read_pickle

# The largest array of CIFAR has 1.5e8 bytes.
_LARGEST = 1 << 31


class _Type:
    """numpy.dtype; of all of them, only bytes are read."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Array(Stateful):
    """An array as its pickle describes it."""

    def __init__(self) -> None:
        self.array: np.ndarray | None = None

    def set_state(self, state: Any) -> None:
        """Takes (version, shape, type, whether the first index runs fastest, the bytes)."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise NotData("its pickle is damaged (an array's state)")
        self.array = _array(state[1], state[2], bool(state[3]), state[4])


def read_arrays(data: bytes) -> Any:
    """What a pickle holds: dicts, lists, numbers and texts (of bytes, as Latin-1 does it), arrays of bytes.

    Raises:
        NotData: it is damaged, or has arrays of other numbers.
        Refused: it would run code if it were opened as a pickle.
    """
    return _plain(read_pickle(io.BytesIO(data), _CALLS), 0)


def _plain(value: Any, depth: int) -> Any:
    if isinstance(value, _Array):
        if value.array is None:
            raise NotData("its pickle is damaged (an array without numbers)")
        return value.array
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, dict) and depth < 4:
        return {_plain(key, depth + 1): _plain(each, depth + 1) for key, each in value.items()}
    if isinstance(value, list) and depth < 4:
        return [_plain(each, depth + 1) for each in value]
    return value


def _array(shape: Any, kind: Any, columns: bool, data: Any) -> np.ndarray:
    if not isinstance(kind, _Type) or kind.name not in ("u1", "uint8", "|u1", "B"):
        name = kind.name if isinstance(kind, _Type) else "an unknown kind"
        raise NotData(f"it has an array of {name[:20]} numbers, not of unsigned bytes")
    raw = data.encode("latin-1") if isinstance(data, str) else data  # Python 2 had no bytes
    whole = isinstance(shape, tuple) and all(type(side) is int and side >= 0 for side in shape) and len(shape) < 8
    if not whole or not isinstance(raw, bytes | bytearray) or len(raw) != math.prod(shape) or len(raw) > _LARGEST:
        raise NotData("its pickle is damaged (an array's numbers are not as many as its shape says)")
    return np.frombuffer(bytes(raw), np.uint8).reshape(shape, order="F" if columns else "C")


def _type(arguments: Any) -> _Type:
    name = arguments[0]
    return _Type(name if isinstance(name, str) else "unnamed")


def _latin(arguments: Any) -> bytes:
    """_codecs.encode(text, "latin1"): how Python 3 wrote bytes for Python 2 to read."""
    text, coding = arguments
    if not isinstance(text, str) or coding not in ("latin1", "latin-1"):
        raise NotData("its pickle is damaged (text of an unknown coding)")
    return text.encode("latin-1")


def _from_buffer(arguments: Any) -> _Array:
    data, kind, shape, order = arguments
    made = _Array()
    made.array = _array(shape, kind, order == "F", data)
    return made


_CALLS: dict[str, Call] = {
    "_codecs.encode": _latin,
    "numpy.dtype": _type,
    **{f"numpy.{core}.multiarray._reconstruct": lambda _: _Array() for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _from_buffer for core in ("core", "_core")},
}
