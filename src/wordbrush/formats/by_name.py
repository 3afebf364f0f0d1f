"""LoRAs and embeddings as requests and prompts name them: found in the library, and kept once they are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from wordbrush.conditioning.prompt.program import PromptProgram
from wordbrush.formats.library import Library
from wordbrush.request_fields import Lora

if TYPE_CHECKING:
    from wordbrush.formats.lora import LoraFile, LoraUse


MOST_BYTES = 1 << 30
"""Of LoRA files that a pipeline keeps."""


@lru_cache(maxsize=256)
def loras_in(prompt: str) -> tuple[Lora, ...]:
    """The LoRAs that a prompt asks for. Raises `RequestError` for a tag that cannot be read."""
    return tuple(Lora(name=tag.name, unet=tag.unet, text=tag.text) for tag in PromptProgram.parse(prompt).loras)


@dataclass(frozen=True)
class _Kept:
    changed: int  # when, in nanoseconds since 1970
    bytes: int
    file: LoraFile


class LoraShelf:
    """LoRA files that have been found and read; one that has changed on the disk is read again.

    Args:
        most_bytes: of files that are kept; those that were not asked for for longest are given up first.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._paths: dict[str, Path] = {}
        self._files: dict[Path, _Kept] = {}  # the last is the one asked for last

    def uses(self, loras: Sequence[Lora]) -> tuple[LoraUse, ...]:
        """The files of these names with their strengths.

        Raises:
            ModelFileError: a name stands for no LoRA, or for several, or its file is damaged.
        """
        if not loras:
            return ()
        from wordbrush.formats.lora import LoraUse

        found = tuple(LoraUse(self._read(self._find(one.name)), unet=one.unet, text=one.text) for one in loras)
        wanted = len({use.file.path for use in found})
        while len(self._files) > wanted and sum(kept.bytes for kept in self._files.values()) > self._most_bytes:
            del self._files[next(iter(self._files))]
        return found

    def _find(self, name: str) -> Path:
        if name not in self._paths or not self._paths[name].exists():
            self._paths[name] = Library.default().find_lora(name)
        return self._paths[name]

    def _read(self, path: Path) -> LoraFile:
        from wordbrush.formats.lora import read_lora

        stat = path.stat() if path.exists() else None
        changed = 0 if stat is None else stat.st_mtime_ns
        kept = self._files.pop(path, None)
        if kept is None or kept.changed != changed:
            kept = _Kept(changed, 0 if stat is None else stat.st_size, read_lora(path))
        self._files[path] = kept
        return kept.file


class NamedEmbeddings(Mapping[str, Mapping[str, Tensor]]):
    """The library's embeddings, and any given beside it: name -> encoder -> (n, D). Files are read when asked for."""

    def __init__(self, beside: Mapping[str, Mapping[str, Tensor]] | None = None) -> None:
        self._beside = dict(beside or {})

    @cached_property
    def _paths(self) -> dict[str, Path]:
        return {entry.stem: entry.path for entry in reversed(Library.default().embeddings())}

    def __getitem__(self, name: str) -> Mapping[str, Tensor]:
        if name in self._beside:
            return self._beside[name]
        from wordbrush.formats.textual_inversion import read_embedding

        return read_embedding(self._paths[name]).vectors

    def __iter__(self) -> Iterator[str]:
        return iter({**self._paths, **self._beside})

    def __len__(self) -> int:
        return len({**self._paths, **self._beside})
