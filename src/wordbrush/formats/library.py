"""Finding models, LoRAs, embeddings, VAEs and text encoders by name, in the folders a person already has.

Looked through: the folders of `config.json` (`wordbrush models folders add`), those of the environment variable
WORDBRUSH_MODELS, and the Hugging Face cache; the embedded model is always there. A folder may be a WebUI, a ComfyUI, or
just a folder. Nothing here opens a socket.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from wordbrush.errors import ModelFileError
from wordbrush.formats.hashes import cached_sha256, file_sha256, legacy_hash
from wordbrush.formats.library_folders import LibraryFolder, library_folders
from wordbrush.formats.library_scan import (
    CHECKPOINT,
    EMBEDDED,
    EMBEDDING,
    KINDS,
    LORA,
    PICTURES,
    SUFFIXES,
    TEXT_ENCODER,
    VAE,
    LibraryEntry,
    Scan,
    embedded_folder,
    without_ending,
)
from wordbrush.formats.safetensors_file import read_header
from wordbrush.formats.weight_files import SAFETENSORS

__all__ = [
    "CHECKPOINT", "EMBEDDED", "EMBEDDING", "KINDS", "LORA", "PICTURES", "SUFFIXES", "TEXT_ENCODER", "VAE", "Library",
    "LibraryEntry", "embedded_folder", "on_disk",
]  # fmt: skip

# The WebUI's title of a model, or any other name with a hash after it.
_TITLE = re.compile(r"(.+?)\s*\[([0-9a-fA-F]{8,64})\]")


class Library:
    """What is in some folders, read once, when it is first asked for."""

    def __init__(self, folders: Sequence[LibraryFolder]) -> None:
        self.folders = tuple(folders)
        self._scan = Scan(self.folders)

    @classmethod
    def default(cls) -> Library:
        """The user's own: the configured folders and those of the environment. Raises `ModelFileError`, see there."""
        return cls(library_folders())

    def checkpoints(self) -> tuple[LibraryEntry, ...]:
        """Models: single files, bare networks of FLUX among them, and diffusers folders."""
        return self.entries(CHECKPOINT)

    def vaes(self) -> tuple[LibraryEntry, ...]:
        """Separate VAEs."""
        return self.entries(VAE)

    def loras(self) -> tuple[LibraryEntry, ...]:
        """LoRAs of any dialect."""
        return self.entries(LORA)

    def embeddings(self) -> tuple[LibraryEntry, ...]:
        """Textual inversions."""
        return self.entries(EMBEDDING)

    def text_encoders(self) -> tuple[LibraryEntry, ...]:
        """Separate CLIP and T5 encoders."""
        return self.entries(TEXT_ENCODER)

    def entries(self, kind: str | None = None) -> tuple[LibraryEntry, ...]:
        """Everything of one kind by name, or everything."""
        return tuple(entry for each in KINDS if kind in (None, each) for entry in self._scan.entries(each))

    def find_checkpoint(self, name: str | Path) -> Path:
        """The file or folder of a model; see `find`."""
        return self.find(CHECKPOINT, name)

    def find_vae(self, name: str | Path) -> Path:
        """The file or folder of a VAE; see `find`."""
        return self.find(VAE, name)

    def find_lora(self, name: str | Path) -> Path:
        """The file of a LoRA, by its file name or the `ss_output_name` inside it; see `find`."""
        return self.find(LORA, name)

    def find_embedding(self, name: str | Path) -> Path:
        """The file of an embedding; see `find`."""
        return self.find(EMBEDDING, name)

    def find_text_encoder(self, name: str | Path) -> Path:
        """The file of a text encoder; see `find`."""
        return self.find(TEXT_ENCODER, name)

    def find(self, kind: str | None, name: str | Path) -> Path:
        """The path that a name stands for: that of `entry`, or an existing file or folder of weights itself."""
        path = on_disk(name)
        if path is not None and path.suffix.lower() in (*SUFFIXES, *PICTURES) and path.is_file():
            return path
        configs = ("model_index.json", "config.json", "adapter_config.json")
        if path is not None and any(os.path.isfile(path / file) for file in configs):
            return path
        return self.entry(kind, name).path

    def entry(self, kind: str | None, name: str | Path) -> LibraryEntry:
        """What a name stands for.

        A name is, and is tried as, in this order: the path below a library folder, the file's name, its stem, the
        `ss_output_name` of a LoRA; all that without regard to case; a hash that is known. The WebUI's title,
        `name.safetensors [hash]`, is a name whose file must also have that hash.

        Raises:
            ModelFileError: nothing or several things have that name.
        """
        found = self.matches(kind, name)
        if len(found) == 1:
            return found[0]
        wanted = _plain(name)
        if not found:
            what = "entry" if kind is None else KINDS[kind]
            raise ModelFileError(
                f"there is no {what} {wanted!r}: no such file, and nothing of that name in the library"
                f"{_close(self.entries(kind), wanted)}"
            )
        places = ", ".join(sorted(str(entry.path) for entry in found))
        raise ModelFileError(f"{wanted!r} is the name of {len(found)} files: {places}; give the path of one")

    def matches(self, kind: str | None, name: str | Path) -> list[LibraryEntry]:
        """Everything that a name, in the meaning of `entry`, fits. Raises `ModelFileError` for a title's wrong hash."""
        entries, wanted = self.entries(kind), _plain(name)
        return _matches(entries, wanted) or _title_matches(entries, wanted)


# What a system says of a path that leads nowhere; ELOOP: a link to itself.
_NOWHERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL}


def on_disk(name: str | Path) -> Path | None:
    """The file or folder that a name is the path of, if there is one.

    Raises:
        ModelFileError: that may not be seen.
    """
    try:
        path = Path(name).expanduser()
        path.stat()
    except (RuntimeError, ValueError):  # the home of nobody; a zero byte
        return None
    except OSError as error:
        if error.errno in _NOWHERE:
            return None
        raise ModelFileError(f"{name} cannot be read: {error.strerror or error}") from error
    return path


def _plain(name: str | Path) -> str:
    return str(name).replace("\\", "/").strip()


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _output_name(entry: LibraryEntry) -> str | None:
    if entry.kind != LORA or entry.path.suffix.lower() not in SAFETENSORS:
        return None
    try:
        return read_header(entry.path).metadata.get("ss_output_name")
    except ModelFileError:
        return None


# The ways to call something, the plainest first: what an entry is called in each.
_WAYS: tuple[Callable[[LibraryEntry], str | None], ...] = (
    lambda entry: entry.name,
    lambda entry: without_ending(entry.name),
    lambda entry: _last(entry.name),
    lambda entry: without_ending(_last(entry.name)),
    _output_name,
)


def _matches(entries: Sequence[LibraryEntry], wanted: str) -> list[LibraryEntry]:
    for spelt in (str, str.lower):
        for way in _WAYS:
            if found := [entry for entry in entries if spelt(way(entry) or "") == spelt(wanted)]:
                return found
    if re.fullmatch(r"[0-9a-fA-F]{10}|[0-9a-fA-F]{64}", wanted):
        known = ((entry, cached_sha256(entry.path)) for entry in entries if entry.path.is_file())
        return [entry for entry, sha256 in known if sha256 is not None and sha256.startswith(wanted.lower())]
    return []


def _title_matches(entries: Sequence[LibraryEntry], wanted: str) -> list[LibraryEntry]:
    """The files that the WebUI's title `name.safetensors [hash]` fits; `ModelFileError` when only the name does."""
    title = _TITLE.fullmatch(wanted)
    named = _matches(entries, title[1]) if title else []
    found = [entry for entry in named if title and _has_hash(entry.path, title[2].lower())]
    if named and not found:
        raise ModelFileError(f"{named[0].path} is not {wanted!r}: its hash is another, so it is another version")
    return found


def _has_hash(path: Path, digits: str) -> bool:
    """Whether a file has a WebUI hash: ten or more digits, or the eight of 2022."""
    if not path.is_file():
        return False
    return (len(digits) == 8 and legacy_hash(path) == digits) or file_sha256(path).startswith(digits)


def _close(entries: Sequence[LibraryEntry], wanted: str) -> str:
    """The end of the sentence that says there is no such name."""
    spellings: dict[str, str] = {}
    for entry in entries:
        for name in (entry.stem, without_ending(entry.name)):
            spellings.setdefault(name.lower(), name)
    names = [spellings[name] for name in difflib.get_close_matches(wanted.lower(), spellings, n=3, cutoff=0.6)]
    if names:
        return f"; close to it: {', '.join(names)}"
    return "; `wordbrush models list` shows what there is, `wordbrush models folders add` has it look further"
