"""Headers and files damaged at random, the same every time, and a limit on what reading them may allocate."""

from __future__ import annotations

import contextlib
import json
import math
import random
import struct
import tracemalloc
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

Base = tuple[dict[str, Any], int]
"""A sound header, and how many bytes of tensors follow it."""

_NUMBERS = (
    0, 1, 2, 3, 4, 7, 8, 9, 63, 64, 65, 2**31, 2**32 - 1, 2**47, 2**53, 2**63 - 1, 2**63, 2**64, 10**30, -1, -(2**40),
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    *_NUMBERS, None, True, 1.5, 1e308, "", "x" * 300, "F16", [], {}, [1], [[]], {"dtype": "F32"},
)  # fmt: skip
_TAILS = ("", ".", "x", "\0", "\u2028", ".0", "9" * 30)


def _spot(value: Any, dice: random.Random) -> tuple[Any, Any]:
    """A container somewhere in a JSON value, and one of its keys."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = dice.choice(keys)
        if not isinstance(value[key], dict | list) or not value[key] or dice.random() < 0.3:
            return value, key
        value = value[key]


def _edited(header: dict[str, Any], dice: random.Random) -> bytes:
    """The header with one to four things in it changed."""
    header = json.loads(json.dumps(header))
    for _ in range(dice.randint(1, 4)):
        container, key = _spot(header, dice)
        kind = dice.randrange(5)
        if kind == 0 and isinstance(container, dict):
            container[dice.choice(list(container)) + dice.choice(_TAILS)] = container[key]
        elif kind == 1 and len(container) > 1:
            del container[key]
        elif kind == 2 and isinstance(container, dict):
            container[key] = container[dice.choice(list(container))]
        elif isinstance(container[key], int) and dice.random() < 0.5:
            container[key] += dice.choice([-8, -1, 1, 2, 8, 1000])
        else:
            container[key] = dice.choice(_VALUES)
    return json.dumps(header).encode()


def _garbled(text: bytes, dice: random.Random) -> bytes:
    """The text with some bytes changed, taken out, put in or repeated."""
    content = bytearray(text)
    for _ in range(dice.randint(1, 6)):
        place = dice.randrange(len(content))
        kind = dice.randrange(4)
        if kind == 0:
            content[place] = dice.randrange(256)
        elif kind == 1:
            del content[place : place + dice.randint(1, 40)]
        elif kind == 2:
            content[place:place] = dice.choice([b"[", b"{", b'"', b"9" * 50, b"\\u0000", b"[" * 3000, b"-", b"1e999"])
        else:
            content[place:place] = content[place : place + dice.randint(1, 200)]
    return bytes(content) or b"{"


def _reshaped(header: dict[str, Any], dice: random.Random, largest: int) -> tuple[bytes, int]:
    """A sound header of other tensors: some renamed, some left out, some of another shape."""
    shapes = {name: list(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    for _ in range(dice.randint(1, 3)):
        name = dice.choice(list(shapes))
        kind = dice.randrange(4)
        if kind == 0:
            shapes[name.replace("1", dice.choice("023489")) + dice.choice(_TAILS)] = shapes.pop(name)
        elif kind == 1 and len(shapes) > 1:
            del shapes[name]
        elif kind == 2:
            shapes[name] = [dice.choice([0, 1, 2, 3, 5, 32, 77, 10**6]) for _ in range(dice.randint(0, 5))]
        else:
            shapes[name] = shapes[dice.choice(list(shapes))]
    shapes = {name: shape for name, shape in shapes.items() if math.prod(shape) < largest}
    metadata = {key: value for key, value in header.items() if key == "__metadata__"}
    again, size = sound_header(shapes)
    return json.dumps(metadata | again).encode(), size


def mutants(
    bases: list[Base], count: int, dice: random.Random, largest: int = 2**40
) -> Iterator[tuple[bytes, int]]:
    """The start of a file, and how long the file is; `largest` is how many numbers a tensor may have."""
    for number in range(count):
        entries, size = bases[number // 4 % len(bases)]
        if number % 4 == 0:
            text, size = _reshaped(entries, dice, largest)
            yield struct.pack("<Q", len(text)) + text, 8 + len(text) + size
            continue
        text = json.dumps(entries).encode()
        if number % 4 == 1:
            text = _garbled(text, dice)
        elif number % 4 == 2:
            text = _edited(entries, dice)
        length = len(text)
        if number % 4 == 3 or dice.random() < 0.1:
            near = [len(text) - 1, len(text) + 1, len(text) + 8, dice.randrange(2**64)]
            length = dice.choice([*_NUMBERS, *near]) % 2**64
        total = 8 + len(text) + max(0, size + dice.choice([0, 0, 0, 0, -1, 1, -size, 1000]))
        yield struct.pack("<Q", length) + text, total


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """The shapes of tensors, as a header lists them."""
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def sound_header(shapes: dict[str, list[int]], metadata: dict[str, str] | None = None) -> Base:
    """The header of a file of float16 tensors of these shapes, and how many bytes they take."""
    entries: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    place = 0
    for name, shape in shapes.items():
        end = place + 2 * math.prod(shape)
        entries[name] = {"dtype": "F16", "shape": shape, "data_offsets": [place, end]}
        place = end
    return entries, place


def flipped(whole: bytes, dice: random.Random, *, within: tuple[int, int] | None = None) -> bytes:
    """The bytes with one to four of them changed, of every tenth a part missing at the end."""
    content = bytearray(whole)
    start, stop = within or (0, len(whole))
    for _ in range(dice.randint(1, 4)):
        content[min(dice.randrange(start, stop), len(content) - 1)] = dice.randrange(256)
    return bytes(content[: dice.randrange(len(content))] if dice.randrange(10) == 0 else content)


@contextlib.contextmanager
def no_more_memory_than(most: int | None) -> Iterator[None]:
    """Fails when Python allocates more bytes at once; measuring takes time, and None leaves it out."""
    if most is None:
        yield
        return
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()
