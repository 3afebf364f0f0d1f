"""How many pieces a prompt has for its model, while it is being typed, and which words the model never met."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from wordbrush.conditioning.prompt import syntax
from wordbrush.conditioning.prompt.tags import strip_tags
from wordbrush.conditioning.report import KnownWords, spellings
from wordbrush.conditioning.tokenizer import ClipTokenizer
from wordbrush.errors import WordbrushError
from wordbrush.serving.catalogue import Known

MOST_SHOWN = 5


@dataclass(frozen=True)
class Count:
    """What a model's tokenizer makes of a prompt.

    Attributes:
        pieces: of the whole prompt, without the signs of weights and LoRA tags.
        limit: how many the encoder reads at a time; more are read in chunks.
        unseen: words that the model never met in training; empty where it does not say.
    """

    pieces: int
    limit: int
    unseen: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """What stands below the prompt."""
        chunks = -(-self.pieces // self.limit)
        said = f"{self.pieces} of {max(1, chunks) * self.limit} tokens"
        if chunks > 1:
            said += f", read in {chunks} parts"
        if self.unseen:
            more = len(self.unseen) - MOST_SHOWN
            words = ", ".join(self.unseen[:MOST_SHOWN]) + (f" and {more} more" if more > 0 else "")
            said += f" · never seen by this model: {words}"
        return said


def count(model: Known, prompt: str) -> Count | None:
    """The count of a prompt; None for a model whose tokenizer is not a CLIP's in a folder beside it."""
    reader = None if model.path is None else _reader(model.path)
    if reader is None:
        return None
    tokenizer, known = reader
    try:
        sections = syntax.parse(strip_tags(prompt)[0])
    except WordbrushError:  # a weight that is being typed
        sections = syntax.literal(prompt)
    pieces, words = 0, dict[str, None]()
    for section in sections:
        for run in section:
            found = tokenizer.pieces(run.text)
            pieces += len(found)
            words |= dict.fromkeys(spellings(run.text, found).values())
    return Count(pieces=pieces, limit=tokenizer.max_length - 2, unseen=known.unseen(list(words)))


@lru_cache(maxsize=8)
def _reader(folder: Path) -> tuple[ClipTokenizer, KnownWords] | None:
    try:
        tokenizer = ClipTokenizer.from_folder(folder / "tokenizer")
    except WordbrushError:
        return None
    try:
        words = json.loads((folder / "words.json").read_text(encoding="utf-8"))
        known = frozenset(str(word) for word in words) if isinstance(words, list) else None
    except (OSError, ValueError):
        known = None
    return tokenizer, KnownWords(tokenizer, known)
