"""What there is in the folders of a library and in the hub's cache, one kind of file at a time.

Where a tree has a name for a kind of file, as a WebUI and a ComfyUI have, that name decides; elsewhere the header does.
What may not be looked into and links that lead nowhere are passed over: every prompt is searched for embeddings, so one
bad folder must not stop all work. Hence `os.path`, whose questions answer no where those of `Path` raise.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from wordbrush.errors import ModelFileError
from wordbrush.formats.checkpoint import open_checkpoint
from wordbrush.formats.hub import cached_repositories, cached_snapshot, is_whole
from wordbrush.formats.library_folders import LibraryFolder
from wordbrush.formats.single_file.detect import detect
from wordbrush.formats.weight_files import PICKLED, SAFETENSORS

EMBEDDED = "scenes-128"

CHECKPOINT, VAE, LORA, EMBEDDING, TEXT_ENCODER = "checkpoint", "vae", "lora", "embedding", "text_encoder"
UPSCALER = "upscaler"

KINDS = {
    CHECKPOINT: "model", VAE: "VAE", LORA: "LoRA", EMBEDDING: "embedding", TEXT_ENCODER: "text encoder",
    UPSCALER: "upscaler",
}  # fmt: skip
"""The kinds a library finds, and what to call one."""

SUFFIXES = (*SAFETENSORS, *PICKLED)
"""How files of weights end."""

PICTURES = (".png", ".webp")
"""How pictures end that can carry an embedding."""

# Folder names, in lower case, that say what is inside: A1111's and Forge's, ComfyUI's.
_TREE = {
    "stable-diffusion": CHECKPOINT, "checkpoints": CHECKPOINT, "diffusion_models": CHECKPOINT, "unet": CHECKPOINT,
    "diffusers": CHECKPOINT, "lora": LORA, "loras": LORA, "lycoris": LORA, "vae": VAE, "vae_approx": VAE,
    "vae-taesd": VAE, "embeddings": EMBEDDING, "text_encoder": TEXT_ENCODER,
    "text_encoders": TEXT_ENCODER, "clip": TEXT_ENCODER, "esrgan": UPSCALER, "realesrgan": UPSCALER,
    "upscale_models": UPSCALER,
}  # fmt: skip

# What `detect` calls a file -> its kind. A model of a family that is not run here says so when it is opened.
_DETECTED = {
    "model": CHECKPOINT, "other model": CHECKPOINT, "vae": VAE, "lora": LORA, "embedding": EMBEDDING,
    "text encoder": TEXT_ENCODER, "upscaler": UPSCALER,
}  # fmt: skip

# Prompts are searched for embeddings every time; larger files, which cannot be any, are not opened for that.
_LARGEST_EMBEDDING = 8_000_000

_SHARD = re.compile(r"-\d+-of-\d+")


@dataclass(frozen=True, kw_only=True)
class LibraryEntry:
    """One thing with a name.

    Attributes:
        name: its path below the folder that was looked through, with the file's ending; or a hub id; or "scenes-128".
        kind: a key of `KINDS`.
        path: the file, or the diffusers folder.
        origin: the library folder, "hub" or "embedded".
    """

    name: str
    kind: str
    path: Path
    origin: str

    @property
    def stem(self) -> str:
        """The name without folder and ending, as prompts and lists have it."""
        if self.origin == "hub" and self.path.is_dir():
            return self.name
        return without_ending(self.name.rpartition("/")[2])


def without_ending(name: str) -> str:
    """A name without a file's ending, if it has one that is known here."""
    return name[: name.rindex(".")] if name.lower().endswith((*SUFFIXES, *PICTURES)) else name


def embedded_folder() -> Path:
    """Where the model that ships with the package lies."""
    return Path(str(files("wordbrush"))) / "models" / EMBEDDED


class Scan:
    """Looks through folders and the hub's cache, for each kind once and only when it is asked for.

    Args:
        folders: one inside another says best what its own files are.
    """

    def __init__(self, folders: Sequence[LibraryFolder]) -> None:
        self._folders = folders
        self._found: dict[str, tuple[LibraryEntry, ...]] = {}
        self._told: dict[Path, str | None] = {}

    def entries(self, kind: str) -> tuple[LibraryEntry, ...]:
        """Everything of a kind, by name."""
        if kind not in self._found:
            unique: dict[str, LibraryEntry] = {}
            for entry in self._look(kind):  # two trees often share files by links
                unique.setdefault(os.path.realpath(entry.path), entry)
            self._found[kind] = tuple(sorted(unique.values(), key=lambda entry: (entry.name.lower(), str(entry.path))))
        return self._found[kind]

    def _look(self, kind: str) -> Iterator[LibraryEntry]:
        if kind == CHECKPOINT:
            yield LibraryEntry(name=EMBEDDED, kind=CHECKPOINT, path=embedded_folder(), origin="embedded")
        places = {folder.path: _places(folder) for folder in self._folders}
        roots = {place for root, inner in places.items() for place in (root, *(path for path, _ in inner))}
        for root, inner in places.items():
            for place, stated in inner:
                if stated in (None, kind) or (stated, kind) == (CHECKPOINT, VAE):
                    for path in _walk(place, without=roots - {place}):
                        if self._kind(path, stated, kind) == kind:
                            name = path.relative_to(place).as_posix() if path != place else place.name
                            yield LibraryEntry(name=name, kind=kind, path=path, origin=str(root))
        yield from self._in_hub_cache(kind)

    def _in_hub_cache(self, kind: str) -> Iterator[LibraryEntry]:
        """Whole pipelines, and files outside of them; what only a pipeline can use is not listed by itself."""
        for repository in cached_repositories():
            snapshot = cached_snapshot(repository)
            if snapshot is None:
                continue
            if kind == CHECKPOINT and is_whole(snapshot):
                yield LibraryEntry(name=repository, kind=kind, path=snapshot, origin="hub")
            pipeline = (snapshot / "model_index.json").is_file()
            for path in sorted(snapshot.glob("*") if pipeline else snapshot.rglob("*")):
                weights = path.suffix.lower() in SUFFIXES and path.is_file() and not _SHARD.search(path.name)
                if weights and self._kind(path, None, kind) == kind:
                    name = f"{repository}/{path.relative_to(snapshot).as_posix()}"
                    yield LibraryEntry(name=name, kind=kind, path=path, origin="hub")

    def _kind(self, path: Path, stated: str | None, wanted: str) -> str | None:
        """The kind of a file or diffusers folder, by that of the folder where it is stated; None: of no use here."""
        if os.path.isdir(path):
            return CHECKPOINT if stated in (None, CHECKPOINT) else None
        if path.stem.lower().endswith(".vae"):
            return VAE
        if path.suffix.lower() in PICTURES:
            return EMBEDDING if stated == EMBEDDING and not _is_preview(path) else None
        if stated is not None:
            return stated
        if path not in self._told:
            if wanted == EMBEDDING and _size(path) > _LARGEST_EMBEDDING:
                return None
            self._told[path] = _told_by_header(path)
        return self._told[path]


def _told_by_header(path: Path) -> str | None:
    try:
        return _DETECTED.get(detect(open_checkpoint(path).header).kind)
    except ModelFileError:
        # opened by its name, a damaged model says what is wrong with it; a pickle can be anything
        return CHECKPOINT if path.suffix.lower() in (*SAFETENSORS, ".ckpt") else None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _is_preview(picture: Path) -> bool:
    """Whether a picture shows what the file beside it paints, and is not itself an embedding."""
    siblings = (picture.with_suffix(suffix) for suffix in SUFFIXES)
    return ".preview." in picture.name.lower() or any(os.path.exists(path) for path in siblings)


def _places(folder: LibraryFolder) -> list[tuple[Path, str | None]]:
    """The folders to walk, with the kind of what they hold where that is clear."""
    root = folder.path
    if folder.kind is not None:
        return [(root, folder.kind)]
    below = _named(root / "models")
    if below:  # a WebUI or ComfyUI: beside its models lie its program, environment and pictures
        return [*below, *((path, kind) for path, kind in _named(root) if kind == EMBEDDING)]
    return [*_named(root), (root, None)]


def _named(folder: Path) -> list[tuple[Path, str | None]]:
    if os.path.isfile(folder / "model_index.json"):
        return []  # a diffusers folder, whose `unet` and `vae` are parts of it
    try:
        return [(path, _TREE[path.name.lower()]) for path in sorted(folder.iterdir()) if path.name.lower() in _TREE]
    except OSError:
        return []


def _walk(folder: Path, without: set[Path]) -> Iterator[Path]:
    """Files of weights and diffusers folders, at any depth; links are followed, but no folder is entered twice."""
    seen = {os.path.realpath(path) for path in without}
    for place, below, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        if "model_index.json" in names:
            below.clear()
            yield Path(place)
            continue
        below[:] = sorted(name for name in below if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(names) if name.lower().endswith((*SUFFIXES, *PICTURES)))
