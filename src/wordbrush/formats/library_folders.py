"""Which folders a user keeps models in: `config.json` in the settings folder, and the variable WORDBRUSH_MODELS."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wordbrush.errors import ModelFileError, RequestError
from wordbrush.formats.user_folders import config_folder

VARIABLE = "WORDBRUSH_MODELS"
"""Environment variable: more folders, separated as in PATH."""

_KEY = "model_folders"


@dataclass(frozen=True, kw_only=True)
class LibraryFolder:
    """A folder to look for models in.

    Attributes:
        kind: what all files in it are; None for a tree, or for files of all kinds.
        configured: whether it stands in config.json; else it is from the environment.
    """

    path: Path
    kind: str | None = None
    configured: bool = True


def config_file() -> Path:
    """Where the settings are."""
    return config_folder() / "config.json"


def library_folders() -> tuple[LibraryFolder, ...]:
    """The configured folders, then those of the environment; whether they exist is not asked.

    Raises:
        ModelFileError: config.json cannot be understood.
    """
    folders = [_folder(entry) for entry in _read().get(_KEY, [])]
    named = [Path(text).expanduser() for text in os.environ.get(VARIABLE, "").split(os.pathsep) if text]
    known = {folder.path for folder in folders}
    return (*folders, *(LibraryFolder(path=path, configured=False) for path in named if path not in known))


def add_folder(path: Path, kind: str | None = None) -> LibraryFolder:
    """Enters a folder in config.json; one that is there already gets the new kind.

    Raises:
        RequestError: there is no such folder.
        WorkFailed: config.json cannot be written.
    """
    place = path.expanduser().absolute()
    if not place.is_dir():
        raise RequestError(f"there is no folder {str(path)!r}")
    content = _read()
    others = [entry for entry in content.get(_KEY, []) if _folder(entry).path != place]
    _write({**content, _KEY: [*others, {"path": str(place), "kind": kind}]})
    return LibraryFolder(path=place, kind=kind)


def remove_folder(path: Path) -> None:
    """Takes a folder out of config.json; the folder itself stays as it is.

    Raises:
        RequestError: it is not there.
        WorkFailed: config.json cannot be written.
    """
    place = path.expanduser().absolute()
    content = _read()
    entries = content.get(_KEY, [])
    rest = [entry for entry in entries if _folder(entry).path != place]
    if len(rest) == len(entries):
        known = ", ".join(str(_folder(entry).path) for entry in entries) or "none"
        raise RequestError(f"{place} is not one of the library's folders: {known}")
    _write({**content, _KEY: rest})


def _read() -> dict[str, Any]:
    path = config_file()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelFileError(f"the settings in {path} cannot be read: {error}; correct or delete the file") from error
    if not isinstance(content, dict) or not isinstance(content.get(_KEY, []), list):
        raise ModelFileError(f"the settings in {path} do not hold an object with a list {_KEY!r}; correct the file")
    return content


def _folder(entry: object) -> LibraryFolder:
    """An entry of the list: a path, or an object with `path` and `kind`."""
    fields = {"path": entry} if isinstance(entry, str) else entry
    kind = fields.get("kind") if isinstance(fields, dict) else None
    if not isinstance(fields, dict) or not isinstance(fields.get("path"), str) or not isinstance(kind, str | None):
        raise ModelFileError(f"the settings in {config_file()} name the model folder {entry!r}, which is not a path")
    return LibraryFolder(path=Path(fields["path"]).expanduser(), kind=kind)


def _write(content: dict[str, Any]) -> None:
    from wordbrush.metadata import write_whole

    write_whole(config_file(), json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n")
