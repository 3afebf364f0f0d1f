"""Models of the Hugging Face hub: what its cache on this machine holds, and the download into it.

Reading the cache opens no socket and does not even import huggingface_hub. Its layout: `models--OWNER--NAME/refs/main`
holds a commit, `snapshots/COMMIT/` the files of that commit.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from wordbrush.errors import ModelFileError, RequestError, WorkFailed
from wordbrush.formats.user_folders import hub_cache

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
HUB_FILE = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)/(.+\.(?:safetensors|sft|ckpt|pt|pth|bin))")
_COMMIT = re.compile(r"[0-9a-f]{40}")

# The networks of a pipeline that are used here; a safety checker of a gigabyte is not among them.
_NETWORKS = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
_TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")
_TOKENIZER_FILES = ("vocab.json", "tokenizer.json", "spiece.model")

# What tells which parts there are, and everything small that they need.
_SMALL_FILES = (
    "model_index.json", *(f"{part}/*.json" for part in (*_NETWORKS, *_TOKENIZERS, "scheduler")),
    *(f"{part}/*.{end}" for part in _TOKENIZERS for end in ("txt", "model")),
    "words.json", "wordbrush.json", "README.md", "LICENSE*", "NOTICE",
)  # fmt: skip
_STEMS = {
    "safetensors": ("diffusion_pytorch_model", "model"),
    "bin": ("diffusion_pytorch_model", "pytorch_model"),
}

# What a system says of a disk that cannot be written; any other failure of a download is one of the network.
_DISK = {errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS}


def is_offline() -> bool:
    """Whether the user has forbidden the hub's library the network."""
    values = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(value.upper() in {"1", "ON", "YES", "TRUE"} for value in values)


def cached_repositories() -> Iterator[str]:
    """The hub id of every repository in the cache, by name."""
    try:
        folders = sorted(path for path in hub_cache().iterdir() if path.name.startswith("models--"))
    except OSError:
        return
    for folder in folders:
        owner, _, name = folder.name.removeprefix("models--").partition("--")
        if name:
            yield f"{owner}/{name}"


def cached_repository(name: str) -> Path:
    """Where the cache keeps a hub id, if it has it: all revisions together."""
    return hub_cache() / f"models--{name.replace('/', '--')}"


def cached_snapshot(name: str, revision: str | None = None) -> Path | None:
    """The files of a hub id in the cache, however many there are; None when there is no such revision."""
    folder = cached_repository(name)
    try:
        commit = (folder / "refs" / (revision or "main")).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        commit = revision or ""
    snapshot = folder / "snapshots" / commit
    return snapshot if commit and Path(commit).name == commit and snapshot.is_dir() else None


def cached_model(name: str, revision: str | None = None) -> Path | None:
    """The diffusers folder of a hub id in the cache, if a model can be opened from it without the network."""
    snapshot = cached_snapshot(name, revision)
    return snapshot if snapshot is not None and is_whole(snapshot) else None


def is_whole(folder: Path) -> bool:
    """Whether a diffusers folder has every file that its model_index.json implies; an interrupted download has not."""
    parts = _named_parts(folder)
    if parts is None or any(not (folder / part / "config.json").is_file() for part in _networks(folder)):
        return False
    tokenizers = [part for part in parts if part in _TOKENIZERS]
    if any(not any((folder / part / file).is_file() for file in _TOKENIZER_FILES) for part in tokenizers):
        return False
    return (folder / "scheduler" / "scheduler_config.json").is_file() and not _parts_without_weights(folder)


def download(name: str, *, revision: str | None = None, variant: str | None = None, **progress: Any) -> Path:
    """Brings a diffusers model into the cache, or what is missing of it; resumes where an earlier call stopped.

    Of each network one form of its weights is fetched: the variant asked for, or else the plain .safetensors, the fp16
    variant, the .bin.

    Args:
        name: "owner/name".
        variant: such as "fp16".
        progress: `tqdm_class` for huggingface_hub.

    Raises:
        ModelFileError: there is no such model, or it is not a diffusers model.
        WorkFailed: the network is not there, or the download broke off.
    """
    folder = _fetch(name, revision, _SMALL_FILES, progress)
    if _named_parts(folder) is None:
        raise ModelFileError(
            f"the hub repository {name!r} is not a diffusers model: it has no model_index.json; name one file of it, "
            f"{name}/FILE.safetensors"
        )
    revision = folder.name if _COMMIT.fullmatch(folder.name) else revision  # a branch can move between two calls
    if variant is not None:
        _fetch_weights(name, revision, folder, variant, progress)
        if not any(_has_weights(folder / part, variant) for part in _networks(folder)):
            raise ModelFileError(f"the hub model {name!r} has no weights of the variant {variant!r}")
    _fetch_weights(name, revision, folder, None, progress)
    missing = _parts_without_weights(folder)
    if missing:
        raise ModelFileError(f"the hub model {name!r} has no weights that can be opened in {', '.join(missing)}")
    return folder


def download_file(name: str, file: str, *, revision: str | None = None, **progress: Any) -> Path:
    """Brings one file of a repository into the cache. Raises as `download`."""
    place = _fetch(name, revision, [file], progress) / file
    if not place.is_file():
        raise ModelFileError(f"the hub repository {name!r} has no file {file!r}")
    return place


def _fetch_weights(
    name: str, revision: str | None, folder: Path, variant: str | None, progress: dict[str, Any]
) -> None:
    """Goes through the forms that weights come in, best first, until no part is without."""
    plain = (("", "safetensors"), (".fp16", "safetensors"), ("", "bin"))
    for infix, ending in plain if variant is None else ((f".{variant}", "safetensors"), (f".{variant}", "bin")):
        missing = _parts_without_weights(folder, variant)
        if missing:
            _fetch(name, revision, [file for part in missing for file in _weight_files(part, infix, ending)], progress)


def _fetch(name: str, revision: str | None, patterns: Sequence[str], progress: dict[str, Any]) -> Path:
    if is_offline():
        raise WorkFailed(f"HF_HUB_OFFLINE is set, so {name!r} cannot be fetched; unset it and try again")
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return Path(
            huggingface_hub.snapshot_download(
                name, revision=revision, cache_dir=hub_cache(), allow_patterns=list(patterns), **progress
            )
        )
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        what = "private or gated, or there is no such repository" if revision is None else f"without a {revision!r}"
        raise ModelFileError(f"the hub model {name!r} cannot be had: it is {what}; {_reason(error)}") from error
    except HFValidationError as error:
        raise RequestError(f"{name!r} is not a hub id: {_reason(error)}") from error
    except Exception as error:  # the library lets through what its HTTP library raises
        if isinstance(error, OSError) and error.errno in _DISK:
            raise WorkFailed(f"cannot write to the hub cache {hub_cache()}: {error.strerror}") from error
        reason = f"fetching {name!r} needs the network, and the hub cannot be reached: {_reason(error)}"
        raise WorkFailed(reason) from error


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].removeprefix("Got: ")[:300] if lines else type(error).__name__


def _named_parts(folder: Path) -> list[str] | None:
    """The parts that model_index.json names and does not leave empty; None without such a file."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(index, dict):
        return None
    return [name for name, entry in index.items() if isinstance(entry, list) and len(entry) == 2 and entry[1]]


def _parts_without_weights(folder: Path, variant: str | None = None) -> list[str]:
    """The networks whose weights are not all there, in this variant or else in any."""
    return [part for part in _networks(folder) if not _has_weights(folder / part, variant)]


def _networks(folder: Path) -> list[str]:
    return [part for part in _named_parts(folder) or () if part in _NETWORKS]


def _has_weights(folder: Path, variant: str | None) -> bool:
    wanted = f".{variant}." if variant else "."
    for path in folder.glob("*.index*.json"):
        if wanted in path.name and all((folder / name).is_file() for name in _shard_names(path)):
            return True
    whole = (path.name for end in ("safetensors", "bin") for path in folder.glob(f"*.{end}"))
    return any(wanted in name and not re.search(r"-\d+-of-\d+", name) for name in whole)


def _shard_names(index: Path) -> list[str]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ["?"]  # a name that no file has: an index that cannot be read counts as weights that are not there
    return [str(name) for name in names]


def _weight_files(part: str, infix: str, ending: str) -> list[str]:
    """Patterns for one form of a part's weights: one file, or shards under the older and the newer spelling."""
    shards = {f"{infix}-*-of-*": None, f"-*-of-*{infix}": None}
    return [f"{part}/{stem}{middle}.{ending}" for stem in _STEMS[ending] for middle in (infix, *shards)]
