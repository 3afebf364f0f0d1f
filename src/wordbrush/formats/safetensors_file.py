"""One .safetensors file: eight bytes of header length, a JSON header, then the tensors' bytes.

The header is checked against the file before anything is read, so that a truncated or foreign file is named as such.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from wordbrush.errors import ModelFileError

# A header describes each tensor in about a hundred bytes; the format's own reader allows no more than this either.
LARGEST_HEADER = 100_000_000

# Bits per element.
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """What a header says of one tensor: number format in the format's spelling ("F16"), shape, size in bytes."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int

    @property
    def parameters(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Header:
    """A checked header: the tensors by name, and the free-form texts under `__metadata__`."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """Reads and checks the header alone, whatever the file's size.

    Raises:
        ModelFileError: the file is missing, cut short, or not a safetensors file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(9)
            length = struct.unpack("<Q", prefix[:8])[0] if len(prefix) == 9 else 0
            if prefix[8:] != b"{" or not 2 <= length <= LARGEST_HEADER:
                raise ModelFileError(f"{path} is not a safetensors file; {_looks_like(prefix)}")
            if 8 + length > size:
                raise ModelFileError(
                    f"{path} is cut short: its header needs {8 + length} bytes, the file has {size}; copy it again"
                )
            text = b"{" + file.read(length - 1)
    except FileNotFoundError as error:
        raise ModelFileError(f"the weights file {path} is missing") from error
    except OSError as error:
        raise ModelFileError(f"the weights file {path} cannot be read: {error.strerror or error}") from error
    try:
        content = json.loads(text)
        metadata = content.pop("__metadata__", {})
        tensors = {name: _tensor_info(value) for name, value in content.items()}
        ends = sorted(tuple(value["data_offsets"]) for value in content.values())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{path} is not a safetensors file: its header cannot be understood ({error})") from error
    _check_offsets(path, ends, size - 8 - length)
    texts = {str(key): str(value) for key, value in metadata.items()} if isinstance(metadata, dict) else {}
    return Header(tensors=tensors, metadata=texts)


def _tensor_info(value: dict[str, Any]) -> TensorInfo:
    dtype, shape, (start, end) = value["dtype"], tuple(value["shape"]), value["data_offsets"]
    if dtype not in _BITS:
        raise ValueError(f"number format {dtype!r}")
    if not all(type(number) is int and number >= 0 for number in (*shape, start, end)):
        raise ValueError("a size is not a whole number")
    if (end - start) * 8 != math.prod(shape) * _BITS[dtype]:
        raise ValueError(f"a tensor of shape {list(shape)} and format {dtype} cannot fill {end - start} bytes")
    return TensorInfo(dtype=dtype, shape=shape, bytes=end - start)


def _check_offsets(path: Path, spans: list[tuple[int, int]], available: int) -> None:
    """The tensors' bytes must follow one another without gap or overlap to the end of the file."""
    position = 0
    for start, end in spans:
        if start != position:
            raise ModelFileError(f"{path} is damaged: its tensors overlap or leave gaps; copy it again")
        position = end
    if position > available:
        raise ModelFileError(
            f"{path} is cut short: its tensors need {position} bytes, {available} are there; copy it again"
        )
    if position < available:
        raise ModelFileError(f"{path} is damaged: {available - position} bytes follow its last tensor; copy it again")


def _looks_like(prefix: bytes) -> str:
    if prefix[:2] == b"PK" or prefix[:1] == b"\x80":
        return "it looks like a pickled checkpoint, which can run code when opened; get the .safetensors form of it"
    if prefix.startswith(b"version"):
        return "it looks like a Git LFS pointer; fetch the real file with `git lfs pull`"
    return "get the file again from where it came from"


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checked file, memory-mapped: their bytes are read when they are first used.

    Raises:
        ModelFileError: as `read_header`.
    """
    read_header(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}") from error


def write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Writes a file; the caller gives it its final name when all is written. Raises `OSError` as any writing does."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    path.touch()
    mode = path.stat().st_mode  # the library makes files that only their owner may read
    try:
        save_file(plain, path, metadata={"format": "pt"})  # transformers refuses files that do not say "pt"
        path.chmod(mode)
    except SafetensorError as error:  # the library wraps what the system said, a full disk for one
        raise OSError(str(error)) from error
