"""Files damaged at random: no crash but a ModelFileError, no hang, no memory beyond the file's size."""

from __future__ import annotations

import contextlib
import json
import math
import random
import resource
import struct
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.formats.single_files import lora, tiny_flux, tiny_unet
from torch import Tensor

from wordbrush.errors import ModelFileError
from wordbrush.formats.checkpoint import open_checkpoint
from wordbrush.formats.pickles import read_pickled_tensors
from wordbrush.formats.single_file.contents import check_nothing_else, content_of
from wordbrush.formats.single_file.detect import detect

MUTANTS = 2400

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


def _reshaped(header: dict[str, Any], dice: random.Random) -> tuple[bytes, int]:
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
    shapes = {name: shape for name, shape in shapes.items() if math.prod(shape) < 2**40}
    metadata = {key: value for key, value in header.items() if key == "__metadata__"}
    again, size = _header(shapes)
    return json.dumps(metadata | again).encode(), size


def _mutants(bases: list[tuple[dict[str, Any], int]], dice: random.Random) -> Iterator[tuple[bytes, int]]:
    """The start of a file, and how long the file is."""
    for number in range(MUTANTS):
        header, size = bases[number // 4 % len(bases)]
        if number % 4 == 0:
            text, size = _reshaped(header, dice)
            yield struct.pack("<Q", len(text)) + text, 8 + len(text) + size
            continue
        text = json.dumps(header).encode()
        if number % 4 == 1:
            text = _garbled(text, dice)
        elif number % 4 == 2:
            text = _edited(header, dice)
        length = len(text)
        if number % 4 == 3 or dice.random() < 0.1:
            near = [len(text) - 1, len(text) + 1, len(text) + 8, dice.randrange(2**64)]
            length = dice.choice([*_NUMBERS, *near]) % 2**64
        total = 8 + len(text) + max(0, size + dice.choice([0, 0, 0, 0, -1, 1, -size, 1000]))
        yield struct.pack("<Q", length) + text, total


def _shapes(tensors: dict[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def _header(shapes: dict[str, list[int]], metadata: dict[str, str] | None = None) -> tuple[dict[str, Any], int]:
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    place = 0
    for name, shape in shapes.items():
        end = place + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [place, end]}
        place = end
    return header, place


def test_thousands_of_damaged_headers(tmp_path: Path) -> None:
    own = json.dumps({"configs": {"unet": {"attention_head_dim": 4}}, "scheduler": {"_class_name": "DDIMScheduler"}})
    unet = tiny_unet("sd1", block_out_channels=(32,), down_block_types=("CrossAttnDownBlock2D",),
                     up_block_types=("CrossAttnUpBlock2D",))  # fmt: skip
    bases = [
        _header(_shapes(dict(unet.state_dict())), {"wordbrush": own, "modelspec.resolution": "512x512"}),
        _header(_shapes(dict(tiny_flux(dev=True).state_dict()))),
        _header(_shapes(lora()), {"ss_network_dim": "4"}),
    ]
    path = tmp_path / "mutant.safetensors"
    dice = random.Random(20261120)
    outcomes = {"refused": 0, "detected": 0, "whole": 0}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number, (start, total) in enumerate(_mutants(bases, dice)):
        with path.open("wb") as file:
            file.write(start)
            file.truncate(total)  # a hole: the tensors' bytes are never looked at
        began = time.process_time()
        with _no_more_memory_than(40 * len(start) + 4_000_000 if number % 8 == 0 else None):
            outcomes[_outcome(path, thorough=number % 32 == 0)] += 1
        assert time.process_time() - began < 5.0
    assert sum(outcomes.values()) == MUTANTS
    assert outcomes["detected"] > 100, outcomes
    assert outcomes["whole"] > 0, outcomes
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "kilobytes"


@contextlib.contextmanager
def _no_more_memory_than(most: int | None) -> Iterator[None]:
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


def _outcome(path: Path, *, thorough: bool) -> str:
    """How far a file gets; anything but a ModelFileError on the way fails the test."""
    try:
        checkpoint = open_checkpoint(path)
        found = detect(checkpoint.header)
        if found.family is None:
            assert found.what
            return "refused"
        if thorough:
            contents = [content_of(checkpoint, component) for component in found.components.values()]
            check_nothing_else(checkpoint, contents)
            return "whole"
        return "detected"
    except ModelFileError as error:
        text = str(error)
    assert str(path) in text
    assert len(text) < 1500
    return "refused"


@pytest.mark.parametrize("legacy", [False, True])
def test_hundreds_of_damaged_pickles(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "mutant.ckpt"
    torch.save(
        {"state_dict": {f"layer.{i}.weight": torch.ones(3, 2) for i in range(6)}, "global_step": 3}, path,
        _use_new_zipfile_serialization=not legacy,
    )  # fmt: skip
    whole = path.read_bytes()
    # half of them where a pickle's own instructions are
    pickled = whole.index(b"state_dict") + (0 if legacy else 20)
    dice = random.Random(7)
    outcomes = {"refused": 0, "read": 0}
    for number in range(400):
        content = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            place = dice.randrange(pickled, pickled + 600) if number % 2 else dice.randrange(len(content))
            content[min(place, len(content) - 1)] = dice.randrange(256)
        path.write_bytes(content[: dice.randrange(len(content))] if number % 10 == 0 else content)
        with _no_more_memory_than(2_000_000 if number % 8 == 0 else None):
            outcomes[_pickle_outcome(path)] += 1
    assert min(outcomes.values()) > 20, outcomes  # damage to numbers or names alone leaves a sound file


def _pickle_outcome(path: Path) -> str:
    """Whether a file is read, every number of it, or refused; anything but a ModelFileError fails the test."""
    try:
        for tensor in read_pickled_tensors(path).values():
            assert tensor.numel() < 1000
            tensor.double().sum()
        return "read"
    except ModelFileError as error:
        text = str(error)
    assert str(path) in text
    return "refused"
