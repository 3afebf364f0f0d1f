"""Taking models off the disk: files and folders of the library, and what was pulled from the hub."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from wordbrush.errors import RequestError, WorkFailed
from wordbrush.formats.hashes import forget
from wordbrush.formats.hub import HUB_ID, cached_repository
from wordbrush.formats.library import Library, LibraryEntry, on_disk


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What would be removed.

    Attributes:
        name: what it is called.
        paths: files, links and whole folders.
        bytes: how much that frees.
    """

    name: str
    paths: tuple[Path, ...]
    bytes: int


def plan_removal(library: Library, name: str) -> Removal:
    """What removing something of the library means; nothing is touched yet.

    Raises:
        ModelFileError: nothing or several things have that name.
        RequestError: it is the embedded model.
    """
    repository = cached_repository(name)
    if HUB_ID.fullmatch(name) and repository.is_dir() and not library.matches(None, name):
        return _removal(name, [repository])  # a download that was never finished
    path = on_disk(name)
    entry = library.entry(None, name) if path is None else _entry_at(library, path)
    if entry.origin == "embedded":
        raise RequestError(f"{entry.name} ships with Wordbrush and is not removed")
    return _removal(entry.name, _paths(entry))


def remove(removal: Removal) -> None:
    """Removes it.

    Raises:
        WorkFailed: something cannot be removed; what comes before it is gone.
    """
    for path in removal.paths:
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                forget(path)
                path.unlink()
        except OSError as error:
            raise WorkFailed(f"cannot remove {path}: {error.strerror or error}") from error


def _entry_at(library: Library, path: Path) -> LibraryEntry:
    for entry in library.entries():
        if entry.path.absolute() == path.absolute():
            return entry
    raise RequestError(f"{path} is not in a folder of the library; only what `wordbrush models list` shows is removed")


def _paths(entry: LibraryEntry) -> list[Path]:
    if entry.origin != "hub":
        return [entry.path]
    if entry.path.is_dir():
        return [cached_repository(entry.name)]
    # a file of the hub is a link to its contents, which other revisions may share
    blob = Path(os.path.realpath(entry.path))
    folder = cached_repository("/".join(entry.name.split("/")[:2]))
    if blob.parent != Path(os.path.realpath(folder / "blobs")):
        return [entry.path]  # not the cache's own: a link that someone made to a file of theirs
    others = [path for path in (folder / "snapshots").rglob("*") if path.is_symlink() and path != entry.path]
    shared = any(Path(os.path.realpath(path)) == blob for path in others)
    return [entry.path] if shared else [entry.path, blob]


def _removal(name: str, paths: list[Path]) -> Removal:
    files = {inner for path in paths for inner in (path.rglob("*") if _is_folder(path) else [path])}
    size = sum(file.lstat().st_size for file in files if not _is_folder(file))
    return Removal(name=name, paths=tuple(paths), bytes=size)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
