"""Files that torch.save wrote (.ckpt, .pt, .pth, .bin), read as data: nothing in them is ever run.

zip form     since torch 1.6: a zip of `data.pkl`, which describes tensors, and one uncompressed record for each storage
legacy form  before that: pickles one after another, then the storages
"""

from __future__ import annotations

import io
import math
import mmap
import struct
import zipfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wordbrush.errors import ModelFileError
from wordbrush.formats.pickle_data import NotData, Refused, StoredTensor, read_pickle
from wordbrush.formats.safetensors_file import BITS, Header, TensorInfo, foreign

if TYPE_CHECKING:
    from torch import Tensor

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001

# A description of a tensor takes some hundred bytes, and the largest checkpoints have some thousand tensors.
_LARGEST_PICKLE = 16 << 20

# No network has so many tensors, lies so deep in a file or has such names; a few bytes could ask for many of each.
_MOST_TENSORS, _DEEPEST, _LONGEST_NAME = 100_000, 32, 1000

_LOCAL_HEADER = struct.Struct("<4s22xHH")

# What the zip library lets through when a directory is damaged.
_BROKEN_ZIP = (zipfile.BadZipFile, RecursionError, NotImplementedError, ValueError, struct.error, EOFError)

# The entry of a training checkpoint that holds the network.
_STATE = "state_dict"


@dataclass(frozen=True)
class _Content:
    """A file's data, its tensors by name and where its storages lie: key -> (first byte, number of bytes)."""

    root: Any
    tensors: Mapping[str, StoredTensor]
    storages: Mapping[str, tuple[int, int]]


def read_pickled_tensors(path: Path, names: Collection[str] | None = None) -> dict[str, Tensor]:
    """The tensors of a file that torch.save wrote, memory-mapped; those of its `state_dict` if it has one.

    Tensors inside dicts and lists are named by the path to them: `string_to_param.*`, `params_ema.conv_first.bias`.

    Args:
        names: which; None is all of them.

    Raises:
        ModelFileError: the file is missing, damaged, not such a file, or would run code when opened as a pickle.
    """
    content = _read(path)
    found = {name: tensor for name, tensor in content.tensors.items() if names is None or name in names}
    return _mapped(path, found, content.storages)


def read_pickled_header(path: Path) -> Header:
    """What the header of a .safetensors file would say of the same tensors; single numbers and texts are its metadata.

    Raises:
        ModelFileError: as `read_pickled_tensors`.
    """
    content = _read(path)
    tensors = {name: _info(path, tensor, content.storages) for name, tensor in content.tensors.items()}
    root = content.root if isinstance(content.root, dict) else {}
    metadata = {str(key): str(value) for key, value in root.items() if isinstance(value, str | int | float)}
    return Header(tensors=tensors, metadata=metadata)


def _read(path: Path) -> _Content:
    try:
        with path.open("rb") as file:
            start = file.read(9)
            if start[:4] == b"PK\x03\x04":
                return _read_zip(path)
            if start[:1] != b"\x80":
                what = foreign(start) or "is not a file that torch.save wrote; get it again from where it came from"
                raise ModelFileError(f"{path} {what}")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
                return _read_legacy(memory)
    except FileNotFoundError as error:
        raise ModelFileError(f"the weights file {path} is missing") from error
    except OSError as error:
        raise ModelFileError(f"the weights file {path} cannot be read: {error.strerror or error}") from error
    except Refused as error:
        raise ModelFileError(
            f"{path} is refused: opened as a pickle it would run {error}; get a .safetensors file from its authors"
        ) from error
    except ModelFileError:
        raise
    except NotData as error:
        raise ModelFileError(f"{path} cannot be read as a torch checkpoint: {error}; {error.remedy}") from error
    except _BROKEN_ZIP as error:
        raise ModelFileError(f"{path} cannot be read as a torch checkpoint: {error}; get it again") from error


def _read_zip(path: Path) -> _Content:
    if not zipfile.is_zipfile(path):  # what it looks for is at the end of the file
        raise NotData("it is cut short")
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        records = {record.filename: record for record in archive.infolist()}
        described = next((name for name in records if name == "data.pkl" or name.endswith("/data.pkl")), None)
        if described is None:
            raise NotData("the zip has no data.pkl")
        folder = described.removesuffix("data.pkl")
        start, size = _place(file, records[described])
        if size > _LARGEST_PICKLE:
            raise NotData(f"its pickle of {size} bytes is larger than any description of tensors")
        order = records.get(folder + "byteorder")
        if order is not None and _bytes(file, order) != b"little":
            raise NotData("its numbers are of another byte order", "save it again on a little-endian machine")
        file.seek(start)
        root = read_pickle(io.BytesIO(file.read(size)))
        data = folder + "data/"
        storages = {
            name.removeprefix(data): _place(file, record) for name, record in records.items() if name.startswith(data)
        }
        return _Content(root, _tensors(root), storages)


def _bytes(file: io.BufferedReader, record: zipfile.ZipInfo) -> bytes:
    start, size = _place(file, record)
    file.seek(start)
    return file.read(min(size, 64))


def _place(file: io.BufferedReader, record: zipfile.ZipInfo) -> tuple[int, int]:
    """Where the content of a record lies in the file, and how many bytes it has."""
    if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1:
        problem = f"the record {record.filename[:60]} of its zip is compressed"
        raise NotData(problem, "pack it again without compression")
    file.seek(record.header_offset)
    local = file.read(_LOCAL_HEADER.size)
    if len(local) < _LOCAL_HEADER.size or local[:4] != b"PK\x03\x04":
        raise NotData(f"the record {record.filename[:60]} of its zip is damaged")
    _, name, extra = _LOCAL_HEADER.unpack(local)
    start = record.header_offset + _LOCAL_HEADER.size + name + extra
    if start + record.file_size > file.seek(0, io.SEEK_END):
        raise NotData("it is cut short")
    return start, record.file_size


def _read_legacy(memory: mmap.mmap) -> _Content:
    pickles = io.BytesIO(memory[:_LARGEST_PICKLE])
    if read_pickle(pickles) != _MAGIC:
        raise NotData("it is a pickle, but none that torch.save wrote")
    try:
        protocol, _, root, keys = (read_pickle(pickles) for _ in range(4))
    except NotData as error:
        if pickles.tell() < _LARGEST_PICKLE:
            raise
        raise NotData("its pickles are larger than any description of tensors") from error
    if protocol != _PROTOCOL or not isinstance(keys, list):
        raise NotData("it is of an unknown version of torch's form")
    sizes = {tensor.storage.key: tensor.storage for _, tensor in _walk(root)}
    storages: dict[str, tuple[int, int]] = {}
    place = pickles.tell()
    for key in map(str, keys):
        if place + 8 > len(memory):
            raise NotData("it is cut short")
        (count,) = struct.unpack_from("<q", memory, place)
        storage = sizes.get(key)
        if storage is None or storage.dtype is None or count < 0:
            raise NotData("its storages do not match its tensors")
        size = count * BITS[storage.dtype] // 8
        storages[key] = (place + 8, size)
        place += 8 + size
    if place > len(memory):
        raise NotData("it is cut short")
    return _Content(root, _tensors(root), storages)


def _tensors(root: Any) -> dict[str, StoredTensor]:
    state = root.get(_STATE) if isinstance(root, dict) else None
    return dict(_walk(state if isinstance(state, dict) else root))


def _walk(root: Any) -> Iterator[tuple[str, StoredTensor]]:
    """Every tensor in nested dicts and lists, by the path to it; each container once, as cycles are possible.

    Raises:
        NotData: there are more than any network has.
    """
    seen: set[int] = set()
    count = 0
    levels = [iter([("", root)])]
    while levels:
        path, value = next(levels[-1], (None, None))
        if path is None:
            levels.pop()
        elif isinstance(value, StoredTensor):
            count += 1
            if count > _MOST_TENSORS:
                raise NotData(f"it names more than {_MOST_TENSORS} tensors")
            yield path, value
        elif len(levels) <= _DEEPEST and id(value) not in seen:
            seen.add(id(value))
            levels.append(_entries(path, value))


def _entries(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """What a dict or a list holds that is a tensor or may hold one, by the path to it."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, entry in entries:
        if isinstance(entry, dict | list | tuple | StoredTensor):
            name = f"{path}.{key}" if path else str(key)
            if len(name) <= _LONGEST_NAME:
                yield name, entry


def _info(path: Path, tensor: StoredTensor, storages: Mapping[str, tuple[int, int]]) -> TensorInfo:
    """A tensor's place in the file, if it is one stretch of it; otherwise that of its whole storage.

    Raises:
        ModelFileError: the tensor does not lie within its storage.
    """
    width = BITS[tensor.dtype] // 8
    if tensor.storage.key not in storages:
        raise ModelFileError(f"{path} is cut short: the storage {tensor.storage.key[:60]} is missing; copy it again")
    start, size = storages[tensor.storage.key]
    numbers = math.prod(tensor.shape)
    last = tensor.offset + sum((length - 1) * step for length, step in zip(tensor.shape, tensor.stride, strict=True))
    # an expanded tensor, whose numbers are fewer than its shape says, would grow when it is first copied
    if numbers and ((last + 1) * width > size or numbers * width > size):
        raise ModelFileError(f"{path} is damaged: a tensor of shape {list(tensor.shape)} lies beyond its storage")
    return TensorInfo(
        dtype=tensor.dtype, shape=tensor.shape, bytes=numbers * width, start=start + tensor.offset * width
    )


def _is_contiguous(tensor: StoredTensor) -> bool:
    step = 1
    for length, stride in zip(reversed(tensor.shape), reversed(tensor.stride), strict=True):
        if length != 1 and stride != step:
            return False
        step *= length
    return True


def _mapped(
    path: Path, tensors: Mapping[str, StoredTensor], storages: Mapping[str, tuple[int, int]]
) -> dict[str, Tensor]:
    from wordbrush.formats.mapped_file import map_tensors

    places: dict[str, TensorInfo] = {}
    strided: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        info = _info(path, tensor, storages)
        if not _is_contiguous(tensor) and info.bytes:
            strided[name] = tensor
            length = 1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride, strict=True))
            info = TensorInfo(
                dtype=info.dtype, shape=(length,), bytes=length * BITS[info.dtype] // 8, start=info.start
            )
        places[name] = info
    mapped = map_tensors(path, places)
    for name, tensor in strided.items():
        mapped[name] = mapped[name].as_strided(tensor.shape, tensor.stride)
    return mapped
