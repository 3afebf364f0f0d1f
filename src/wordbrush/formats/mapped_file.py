"""Tensors that are pages of a file: read when they are used, and given back to the system when they are dropped.

A file is mapped in windows of whole tensors, each window for as long as one of its tensors lives. A network that is
moved to another number format, tensor by tensor, so never holds much more than one copy of its weights.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path

import torch

from wordbrush.errors import ModelFileError
from wordbrush.formats.safetensors_file import TensorInfo

# Windows of this size, or larger ones in files so large that there would be more of them than this: each keeps a file
# descriptor.
_WINDOW = 32 << 20
_MOST_WINDOWS = 128

DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "U16": torch.uint16,
    "I32": torch.int32, "U32": torch.uint32, "I64": torch.int64, "U64": torch.uint64, "F16": torch.float16,
    "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "F8_E4M3FNUZ": torch.float8_e4m3fnuz, "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
}  # fmt: skip
"""The number formats of a safetensors header that torch has."""


def map_tensors(path: Path, tensors: Mapping[str, TensorInfo]) -> dict[str, torch.Tensor]:
    """Tensors of a file by their places in it, in the order given. Changing one does not change the file.

    Raises:
        ModelFileError: the file is gone or shorter than the places say, or a number format is none of torch's.
    """
    unknown = sorted({info.dtype for info in tensors.values()} - set(DTYPES))
    if unknown:
        raise ModelFileError(f"{path} holds numbers of the format {unknown[0]}, which torch does not have")
    mapped: dict[str, torch.Tensor] = {}
    try:
        with path.open("rb") as file:
            for window in _windows(tensors):
                mapped |= _map_window(file.fileno(), window)
    except (OSError, ValueError) as error:  # mmap's word for "beyond the end of the file" is ValueError
        raise ModelFileError(f"{path} cannot be read: {error}") from error
    return {name: mapped[name] for name in tensors}


def raw_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a tensor as a file holds them; copied only if it is elsewhere than in one stretch of memory."""
    flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return flat.numpy().data


def _windows(tensors: Mapping[str, TensorInfo]) -> list[dict[str, TensorInfo]]:
    """The tensors, neighbours in the file together."""
    size = max(_WINDOW, sum(info.bytes for info in tensors.values()) // _MOST_WINDOWS)
    windows: list[dict[str, TensorInfo]] = []
    first = 0
    for name, info in sorted(tensors.items(), key=lambda item: item[1].start):
        if not windows or info.start + info.bytes - first > size:
            windows.append({})
            first = info.start
        windows[-1][name] = info
    return windows


def _map_window(file: int, tensors: Mapping[str, TensorInfo]) -> dict[str, torch.Tensor]:
    start = min(info.start for info in tensors.values())
    end = max(info.start + info.bytes for info in tensors.values())
    start -= start % mmap.ALLOCATIONGRANULARITY
    if end == start or not any(info.bytes for info in tensors.values()):
        return {name: torch.empty(info.shape, dtype=DTYPES[info.dtype]) for name, info in tensors.items()}
    pages = mmap.mmap(file, end - start, access=mmap.ACCESS_COPY, offset=start)
    return {name: _view(pages, info, info.start - start) for name, info in tensors.items()}


def _view(pages: mmap.mmap, info: TensorInfo, offset: int) -> torch.Tensor:
    dtype = DTYPES[info.dtype]
    if info.bytes == 0:
        return torch.empty(info.shape, dtype=dtype)
    if offset % dtype.itemsize == 0:
        return torch.frombuffer(pages, dtype=dtype, count=info.parameters, offset=offset).view(info.shape)
    # torch reads whole numbers only from places that are multiples of their size
    whole = torch.frombuffer(pages, dtype=torch.uint8, count=info.bytes, offset=offset).clone()
    return whole.view(dtype).view(info.shape)
