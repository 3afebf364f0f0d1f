"""LoRAs and embeddings as requests and prompts name them: found in the library, and kept once they are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from wordbrush.conditioning.prompt.program import PromptProgram
from wordbrush.formats.library import Library
from wordbrush.request_fields import Lora

if TYPE_CHECKING:
    from wordbrush.formats.lora import LoraFile, LoraUse


@lru_cache(maxsize=256)
def loras_in(prompt: str) -> tuple[Lora, ...]:
    """The LoRAs that a prompt asks for. Raises `RequestError` for a tag that cannot be read."""
    return tuple(Lora(name=tag.name, unet=tag.unet, text=tag.text) for tag in PromptProgram.parse(prompt).loras)


class LoraShelf:
    """LoRA files that have been found and read; one that has changed on the disk is read again."""

    def __init__(self) -> None:
        self._paths: dict[str, Path] = {}
        self._files: dict[Path, tuple[int, LoraFile]] = {}

    def uses(self, loras: Sequence[Lora]) -> tuple[LoraUse, ...]:
        """The files of these names with their strengths.

        Raises:
            ModelFileError: a name stands for no LoRA, or for several, or its file is damaged.
        """
        if not loras:
            return ()
        from wordbrush.formats.lora import LoraUse

        return tuple(LoraUse(self._read(self._find(one.name)), unet=one.unet, text=one.text) for one in loras)

    def _find(self, name: str) -> Path:
        if name not in self._paths or not self._paths[name].exists():
            self._paths[name] = Library.default().find_lora(name)
        return self._paths[name]

    def _read(self, path: Path) -> LoraFile:
        from wordbrush.formats.lora import read_lora

        changed = path.stat().st_mtime_ns if path.exists() else 0
        if path not in self._files or self._files[path][0] != changed:
            self._files[path] = (changed, read_lora(path))
        return self._files[path][1]


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
