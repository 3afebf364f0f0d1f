"""What a model's name means: the embedded model, a folder, or a repository on the Hugging Face hub."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from wordbrush.errors import ModelFileError, RequestError
from wordbrush.formats.diffusers_folder import read_folder
from wordbrush.formats.parts import ModelParts

EMBEDDED = "scenes-128"

# What a diffusers folder is made of; a repository may hold gigabytes of other forms of the same weights beside it.
_HUB_FILES = ("model_index.json", "*/*.json", "*/*.txt", "*/*.safetensors", "words.json", "wordbrush.json", "README.md")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def open_model(name: str | Path | None = None, *, revision: str | None = None) -> ModelParts:
    """Opens a model by the name a user gives it.

    Args:
        name: None or "scenes-128", the embedded model; a diffusers folder; a hub id "owner/name", which is downloaded.
        revision: a branch, tag or commit of a hub id.

    Raises:
        ModelFileError: there is no such model, it cannot be downloaded, or a file of it is damaged.
        RequestError: a revision was given for something that is not a hub id.
    """
    local = embedded_folder() if name is None or name == EMBEDDED else Path(name).expanduser()
    hub = not local.exists() and _HUB_ID.fullmatch(str(name)) is not None
    if revision is not None and not hub:
        raise RequestError(
            f"revision={revision!r} has a meaning only for a hub id such as 'owner/name', not for {name!r}"
        )
    if hub:
        return read_folder(_download(str(name), revision), name=str(name))
    if local.is_file():
        raise ModelFileError(f"{local} is a single file; this version opens diffusers folders and hub ids")
    if not local.exists():
        raise ModelFileError(
            f"there is no model {str(name or EMBEDDED)!r}: no folder of that name, and not a hub id 'owner/name'"
        )
    return read_folder(local, name=EMBEDDED if name is None else str(name))


def embedded_folder() -> Path:
    """Where the model that ships with the package lies."""
    return Path(str(files("wordbrush"))) / "models" / EMBEDDED


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(_HUB_FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelFileError(
            f"there is no folder {name!r} here, and the hub model of that name cannot be had: {reason}"
        ) from error
