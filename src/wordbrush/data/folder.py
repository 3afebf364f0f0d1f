"""Folders of pictures with their captions: Hugging Face's imagefolder, or a .txt beside each picture.

pictures/metadata.jsonl            {"file_name": "a.jpg", "text": "a red bird"}, one line a picture; or metadata.csv
pictures/a.jpg pictures/a.txt      the caption of a.jpg
pictures/cat/1.png                 the subfolder is the class
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wordbrush.data.dataset import FileDataset, Refusing
from wordbrush.errors import RequestError

SUFFIXES = frozenset(
    {
        ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".gif", ".tif", ".tiff", ".bmp", ".ppm", ".pgm",
        ".jp2", ".tga",
    }
)  # fmt: skip
TextSource = Literal["auto", "txt", "metadata", "class", "none"]
_METADATA = ("metadata.jsonl", "metadata.csv")

# What Hugging Face's libraries take for parts of a data set, not for classes.
_SPLITS = frozenset({"train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation"})


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Where captions come from; see `training.data_recipe.FolderData`."""

    source: TextSource = "auto"
    column: str = "text"
    template: str = "{}"
    caption: str | None = None


@dataclass(frozen=True)
class _Entry:
    path: Path
    captions: tuple[str, ...]
    label: int | None = None


class FolderDataset(Refusing, FileDataset):
    """Pictures of a folder and its subfolders, in the order of their names."""

    def __init__(self, folder: Path, texts: Texts | None = None, *, skip_bad: bool = False) -> None:
        """skip_bad: leave out pictures whose captions are missing and say so in `bad`.

        Raises:
            RequestError: there is no such folder or no picture in it, or a picture has no caption.
        """
        super().__init__(skip_bad=skip_bad)
        self.folder, self.texts = folder, texts or Texts()
        if not folder.is_dir():
            raise RequestError(f"there is no folder {str(folder)!r} of pictures")
        files = sorted(_files(folder), key=lambda path: path.relative_to(folder).parts)
        paths = [path for path in files if path.suffix.lower() in SUFFIXES]
        if not paths:
            remedy = ", ".join(sorted(SUFFIXES))
            if any(path.suffix.lower() == ".tar" for path in files):
                remedy = f"it has shards: name those, as in '{folder}/*.tar'"
            raise RequestError(f"the folder {str(folder)!r} has no pictures ({remedy})")
        self._refuse_splits(paths)
        self.entries = self._entries(paths, [path for name in _METADATA for path in files if path.name == name])
        if not self.entries:
            raise RequestError(f"none of the {len(paths)} pictures in {str(folder)!r} can be used: {self.bad[0][1]}")

    def __len__(self) -> int:
        return len(self.entries)

    def path(self, index: int) -> Path:
        return self.entries[index].path

    def caption(self, index: int, draw: random.Random | None = None) -> str:
        captions = self.entries[index].captions
        return captions[0] if draw is None or len(captions) == 1 else draw.choice(captions)

    def label(self, index: int) -> int | None:
        return self.entries[index].label

    def key(self, index: int) -> str:
        return self.entries[index].path.relative_to(self.folder).as_posix()

    def _refuse_splits(self, paths: list[Path]) -> None:
        """Training pictures and those kept for tests are not one data set, and no classes."""
        inside = [path.relative_to(self.folder).parts for path in paths]
        tops, nested = {parts[0] for parts in inside}, all(len(parts) > 2 for parts in inside)
        if tops <= _SPLITS and (len(tops) > 1 or nested):
            first = min(tops, key=lambda name: (not name.startswith("train"), name))
            raise RequestError(
                f"the folder {str(self.folder)!r} has parts of a data set ({', '.join(sorted(tops))}); name one of "
                f"them, such as {str(self.folder / first)!r}, or make a mix of them"
            )

    def _entries(self, paths: list[Path], metadata: list[Path]) -> list[_Entry]:
        if self.texts.caption is not None:
            return [_Entry(path, (self.texts.caption,)) for path in paths]
        classes = {path.relative_to(self.folder).parts[0] for path in paths if path.parent != self.folder}
        source = self.texts.source
        if source == "auto":
            beside = any(path.with_suffix(".txt").exists() for path in paths)
            every_one = all(path.parent != self.folder for path in paths)
            source = "metadata" if metadata else "txt" if beside else "class" if classes and every_one else "none"
        if source == "metadata":
            return self._by_metadata(paths, metadata)
        if source == "txt":
            return self._by_files(paths)
        if source == "class":
            return self._by_classes(paths, sorted(classes))
        return [_Entry(path, ("",)) for path in paths]

    def _by_files(self, paths: list[Path]) -> list[_Entry]:
        entries = []
        for path in paths:
            key, beside = path.relative_to(self.folder).as_posix(), path.with_suffix(".txt")
            try:
                entries.append(_Entry(path, (" ".join(beside.read_text(encoding="utf-8-sig").split()),)))
            except FileNotFoundError:
                self.refuse(key, f"the picture {str(path)!r} has no caption file {beside.name!r} beside it")
            except (OSError, UnicodeDecodeError) as error:
                self.refuse(key, f"the caption file {str(beside)!r} cannot be read as UTF-8 text: {error}")
        return entries

    def _by_classes(self, paths: list[Path], names: list[str]) -> list[_Entry]:
        self.labels = tuple(names)
        entries = []
        for path in paths:
            name, *rest = path.relative_to(self.folder).parts
            if rest:
                text = self.texts.template.replace("{}", name.replace("_", " "))
                entries.append(_Entry(path, (text,), names.index(name)))
            else:
                self.refuse(name, f"the picture {str(path)!r} lies in no subfolder, and so is of no class")
        return entries

    def _by_metadata(self, paths: list[Path], files: list[Path]) -> list[_Entry]:
        if not files:
            raise RequestError(f"the folder {str(self.folder)!r} has no metadata.jsonl or metadata.csv")
        found: dict[Path, tuple[str, ...]] = {}
        for file in files:
            for place, row in _rows(file):
                name, text = row.get("file_name"), row.get(self.texts.column)
                if not isinstance(name, str) or not name:
                    raise RequestError(f"{place} has no file_name")
                captions = tuple(text) if isinstance(text, list) else (text,)
                if not captions or not all(isinstance(caption, str) for caption in captions):
                    filled = (key for key, value in row.items() if key not in ("file_name", None) and value is not None)
                    there = ", ".join(map(repr, filled)) or "nothing else"
                    raise RequestError(f"{place} has no text in the column {self.texts.column!r}; there is {there}")
                found[Path(os.path.normpath(file.parent / name))] = captions
        known = {Path(os.path.normpath(path)): path for path in paths}
        for path in sorted(found.keys() - known.keys()):
            key = str(path)
            self.refuse(key, f"the picture {key!r}, which metadata has a caption of, is not there")
        entries = []
        for normal, path in known.items():
            if normal in found:
                entries.append(_Entry(path, found[normal]))
            else:
                key = path.relative_to(self.folder).as_posix()
                self.refuse(key, f"the picture {str(path)!r} has no line in {files[0].name}, and so no caption")
        return entries


def _files(folder: Path) -> Iterator[Path]:
    """All files that are not hidden, also behind links, but for links to a folder that they lie in."""
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [
            name for name in folders if not name.startswith(".") and not _leads_back(Path(root, name), folder)
        ]
        yield from (Path(root, name) for name in names if not name.startswith("."))


def _leads_back(path: Path, folder: Path) -> bool:
    if not path.is_symlink():
        return False
    target = path.resolve()
    return any(target == above.resolve() for above in path.parents if above.is_relative_to(folder))


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row of a metadata file, and how messages name it."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{str(file)!r} cannot be read as UTF-8 text: {error}") from error
    if file.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        try:
            for row in reader:
                yield f"line {reader.line_num} of {str(file)!r}", row
        except csv.Error as error:
            raise RequestError(f"line {reader.line_num + 1} of {str(file)!r} cannot be read as CSV: {error}") from error
        return
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: JSON may hold other ends of lines as they are
        if not line.strip():
            continue
        place = f"line {number} of {str(file)!r}"
        try:
            values = json.loads(line)
        except ValueError as error:
            raise RequestError(f"{place} is not JSON: {error}") from error
        if not isinstance(values, dict):
            raise RequestError(f"{place} is no object of keys and values")
        yield place, values
