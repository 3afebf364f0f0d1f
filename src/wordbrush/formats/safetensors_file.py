"""One .safetensors file: eight bytes of header length, a JSON header, then the tensors' bytes.

The header is checked against the file before anything is read, so that a truncated or foreign file is named as such.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wordbrush.errors import ModelFileError

if TYPE_CHECKING:
    import torch  # a header is read without it: importing torch takes longer than inspecting the largest file

# A header describes each tensor in about a hundred bytes; the format's own reader allows no more than this either.
LARGEST_HEADER = 100_000_000

# No tensor of a network has more dimensions, and none that fits on a disk is larger along one of them.
_MOST_DIMENSIONS, _LARGEST_DIMENSION = 16, 1 << 48

# How files begin that are often found in the place of a model -> what they are, and what to do.
_FOREIGN = (
    (b"GGUF", "is a GGUF file, which this version does not read; get a .safetensors file"),
    (b"<", "is a web page, not a model; download it again, logged in if its site asks for that"),
    (b"\x89PNG", "is a picture, not a model; name it in the prompt if it carries an embedding"),
    (b"version ", "is a Git LFS pointer, not a model; fetch the real file with `git lfs pull`"),
)

# Bits per element, by the format's spelling of a number format.
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
}  # fmt: skip

# How single numbers are unpacked: bytes to put before them (bfloat16 is the upper half of a float32), struct's code.
_SCALARS = {"F16": (b"", "<e"), "BF16": (b"\0\0", "<f"), "F32": (b"", "<f"), "F64": (b"", "<d"), "I64": (b"", "<q")}


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """What a header says of one tensor: number format in the format's spelling ("F16"), shape, size in bytes.

    `start` is the place in the file where its bytes begin.
    """

    dtype: str
    shape: tuple[int, ...]
    bytes: int
    start: int = 0

    @property
    def parameters(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Header:
    """A checked header: the tensors by name, and the free-form texts under `__metadata__`."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]


def foreign(start: bytes) -> str | None:
    """What a file with these first bytes is that is no model, and what to do; None when that is not known."""
    if not start:
        return "is empty; get it again from where it came from"
    return next((what for magic, what in _FOREIGN if start.startswith(magic)), None)


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
            if prefix[8:] != b"{" and (what := foreign(prefix)):
                raise ModelFileError(f"{path} {what}")
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
        tensors = {name: _tensor_info(value, 8 + length) for name, value in content.items()}
        ends = sorted(tuple(value["data_offsets"]) for value in content.values())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{path} is not a safetensors file: its header cannot be understood ({error})") from error
    _check_offsets(path, ends, size - 8 - length)
    texts = {str(key): str(value) for key, value in metadata.items()} if isinstance(metadata, dict) else {}
    return Header(tensors=tensors, metadata=texts)


def _tensor_info(value: dict[str, Any], data: int) -> TensorInfo:
    """What an entry says of its tensor; data: where in the file the tensors begin."""
    dtype, shape, (start, end) = value["dtype"], tuple(value["shape"]), value["data_offsets"]
    if dtype not in BITS:
        raise ValueError(f"number format {str(dtype)[:20]!r}")
    if not all(type(number) is int and number >= 0 for number in (*shape, start, end)):
        raise ValueError("a size is not a whole number")
    if len(shape) > _MOST_DIMENSIONS or any(number > _LARGEST_DIMENSION for number in (*shape, start, end)):
        raise ValueError("a tensor is larger than any file")
    if (end - start) * 8 != math.prod(shape) * BITS[dtype]:
        raise ValueError(f"a tensor of shape {list(shape)} and format {dtype} cannot fill {end - start} bytes")
    return TensorInfo(dtype=dtype, shape=shape, bytes=end - start, start=data + start)


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
        return "it looks like a pickled checkpoint; give it the ending .ckpt to have it read as one"
    return "get the file again from where it came from"


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checked file, memory-mapped: their bytes are read when they are first used.

    Raises:
        ModelFileError: as `read_header`, or a number format that torch does not have.
    """
    from wordbrush.formats.mapped_file import map_tensors

    return map_tensors(path, read_header(path).tensors)


def read_scalars(path: Path, names: Collection[str]) -> dict[str, float]:
    """Tensors of a single number each, such as the alphas of a LoRA, read without torch; others are left out.

    Raises:
        ModelFileError: as `read_header`.
    """
    tensors = read_header(path).tensors
    found = {}
    with path.open("rb") as file:
        for name in names:
            info = tensors[name]
            if info.parameters == 1 and info.dtype in _SCALARS:
                padding, code = _SCALARS[info.dtype]
                file.seek(info.start)
                found[name] = float(struct.unpack(code, padding + file.read(info.bytes))[0])
    return found


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes a file; the caller gives it its final name when all is written. Raises `OSError` as any writing does.

    Same tensors and metadata, same bytes. Tensors are taken from the mapping one at a time, first for the header and
    then to be written, so that one that makes them when they are asked for need never hold all of them.
    """
    from wordbrush.formats.mapped_file import DTYPES, raw_bytes

    spelt = {dtype: name for name, dtype in DTYPES.items()}
    # the widest numbers first: then each tensor begins at a multiple of its numbers' size
    infos = {name: (spelt[tensor.dtype], list(tensor.shape), tensor.nbytes) for name, tensor in tensors.items()}
    order = sorted(infos, key=lambda name: (-BITS[infos[name][0]], name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}  # transformers asks for "pt"
    place = 0
    for name in order:
        dtype, shape, size = infos[name]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.unlink(missing_ok=True)  # not overwritten: the tensors may be mapped from the very file of that name
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            file.write(raw_bytes(tensors[name]))
