"""The hashes by which people and sites name model files, computed once and then remembered.

    short hash   first 10 hex digits of the file's SHA-256, as the WebUI prints it; model sites call it AutoV2
    LoRA hash    first 12 hex digits of the SHA-256 of what follows the header of a .safetensors file (AutoV3)
    legacy hash  first 8 hex digits of the SHA-256 of 64 KiB at 1 MiB, from 2022; different files can share it

A remembered hash holds for one path, size and modification time. Each file has a record of its own, written whole, so
that any number of processes can remember at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from wordbrush.errors import ModelFileError, WorkFailed
from wordbrush.formats.safetensors_file import read_header
from wordbrush.formats.user_folders import cache_folder
from wordbrush.formats.weight_files import SAFETENSORS

Progress = Callable[[int], None]
"""Called with the number of bytes that have been read since the last call."""

_BLOCK = 1 << 22
_LEGACY_START, _LEGACY_LENGTH = 0x100000, 0x10000
_WHOLE, _TENSORS = "sha256", "tensors_sha256"


def short_hash(sha256: str) -> str:
    """The WebUI's hash of a file with this SHA-256."""
    return sha256[:10]


def autov2(sha256: str) -> str:
    """The same as model sites spell it."""
    return sha256[:10].upper()


def file_sha256(path: Path, progress: Progress | None = None) -> str:
    """SHA-256 of a file, in lower-case hex; reads the file unless it is remembered.

    Raises:
        ModelFileError: the file cannot be read.
    """
    return files_sha256([path], progress)


def files_sha256(paths: Sequence[Path], progress: Progress | None = None) -> str:
    """SHA-256 of files as if they were one, the shards of a network for instance. Otherwise as `file_sha256`."""
    files = tuple(_real(path) for path in paths)
    return _remembered(files, _WHOLE) or _compute(files, _WHOLE, 0, progress)


def cached_sha256(*paths: Path) -> str | None:
    """SHA-256 of a file, or of several together, if it is remembered; nothing of them is read."""
    return _remembered(tuple(_real(path) for path in paths), _WHOLE)


def lora_hash(path: Path, progress: Progress | None = None) -> str:
    """The WebUI's hash of a LoRA: the one in its metadata, else that of its tensors; of a pickle, of the whole file.

    Raises:
        ModelFileError: the file cannot be read.
    """
    if path.suffix.lower() not in SAFETENSORS:
        return file_sha256(path, progress)[:12]
    known = cached_lora_hash(path)
    return known or _compute((_real(path),), _TENSORS, _tensors_start(path), progress)[:12]


def cached_lora_hash(path: Path) -> str | None:
    """The WebUI's hash of a LoRA in a .safetensors file, if its metadata has it or it is remembered."""
    stated = read_header(path).metadata.get("sshs_model_hash")
    known = stated or _remembered((_real(path),), _TENSORS)
    return None if known is None else known[:12]


def legacy_hash(path: Path) -> str | None:
    """The 8-digit hash of 2022; None for a file too small to have one. Reads 64 KiB."""
    try:
        with path.open("rb") as file:
            file.seek(_LEGACY_START)
            block = file.read(_LEGACY_LENGTH)
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror or error}") from error
    return hashlib.sha256(block).hexdigest()[:8] if block else None


def forget(path: Path) -> None:
    """Drops what is remembered of a file."""
    with contextlib.suppress(OSError):
        _record_file((_real(path),)).unlink()


def _real(path: Path) -> Path:
    """The file itself where the path is that of a link to it; unlike `Path.resolve`, content with a link to itself."""
    return Path(os.path.realpath(path.expanduser()))


def _tensors_start(path: Path) -> int:
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def _compute(files: tuple[Path, ...], which: str, start: int, progress: Progress | None) -> str:
    digest = hashlib.sha256()
    try:
        before = _state(files)
        for path in files:
            with path.open("rb") as file:
                file.seek(start)
                while block := file.read(_BLOCK):
                    digest.update(block)
                    if progress is not None:
                        progress(len(block))
        after = _state(files)
    except OSError as error:
        raise ModelFileError(f"{error.filename} cannot be read: {error.strerror or error}") from error
    if before == after:
        _remember(files, after, {which: digest.hexdigest()})
    return digest.hexdigest()


def _state(files: tuple[Path, ...]) -> dict[str, list[Any]]:
    """What must be as it was for a remembered hash to hold."""
    stats = [path.stat() for path in files]
    return {
        "paths": [str(path) for path in files],
        "sizes": [stat.st_size for stat in stats],
        "mtimes_ns": [stat.st_mtime_ns for stat in stats],
    }


def _remembered(files: tuple[Path, ...], which: str) -> str | None:
    try:
        value = _record(files, _state(files)).get(which)
    except OSError:
        return None
    return value if isinstance(value, str) else None


def _record(files: tuple[Path, ...], state: dict[str, list[Any]]) -> dict[str, Any]:
    """What is remembered of files as they are now; empty when there is nothing, or one has changed since."""
    try:
        record = json.loads(_record_file(files).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(record, dict) or any(record.get(key) != value for key, value in state.items()):
        return {}
    return record


def _remember(files: tuple[Path, ...], state: dict[str, list[Any]], found: dict[str, str]) -> None:
    from wordbrush.metadata import write_whole

    content = {**_record(files, state), **state, **found}
    with contextlib.suppress(WorkFailed):  # without a cache the hash is computed again next time
        write_whole(_record_file(files), json.dumps(content).encode())


def _record_file(files: tuple[Path, ...]) -> Path:
    names = "\n".join(map(str, files)).encode("utf-8", errors="surrogateescape")
    return cache_folder() / "hashes" / f"{hashlib.sha256(names).hexdigest()[:32]}.json"
