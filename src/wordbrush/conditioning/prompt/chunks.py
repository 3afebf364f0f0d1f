"""Tokens of any number to chunks of the length that the text encoder reads, cut at commas where one is near."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Token:
    """One position of the sequence that a text encoder reads; equal if the encoder cannot tell them apart.

    Attributes:
        id: number in the vocabulary; meaningless for a vector of an embedding.
        text: the piece's spelling there, or the embedding's name.
        word: the word of the prompt that it belongs to.
        index: the number of that word, counted over the prompt.
        weight: what its hidden state is multiplied with.
        vector: which vector of the embedding `text` stands here; None for a piece of the vocabulary.
    """

    id: int
    text: str
    word: str = field(compare=False)
    index: int = field(compare=False)
    weight: float = 1.0
    vector: int | None = None


Unit = tuple[Token, ...]
"""Tokens that stay together: one piece, or all vectors of an embedding."""

Chunk = tuple[Token, ...]
"""At most as many tokens as the encoder reads, without start, end and padding."""


def chunked(sections: Sequence[Sequence[Unit]], *, size: int, comma: int | None, backtrack: int) -> tuple[Chunk, ...]:
    """Fills chunks in order, as A1111 does; every section but the last ends its chunk, and there is at least one chunk.

    Args:
        size: how many tokens a chunk holds.
        comma: the id of the comma.
        backtrack: when a chunk is full, what follows the last comma moves to the next one, if the comma is among the
            last so many tokens; 0 never moves anything.

    Raises:
        ValueError: an embedding has more vectors than a chunk holds.
    """
    chunks: list[list[Unit]] = []
    for number, section in enumerate(sections):
        if section or number < len(sections) - 1 or not chunks:
            chunks += _fill(section, size, comma, backtrack)
    return tuple(tuple(token for unit in units for token in unit) for units in chunks)


def _fill(units: Sequence[Unit], size: int, comma: int | None, backtrack: int) -> list[list[Unit]]:
    """The units of one section in as many chunks as they need, at least one."""
    chunks: list[list[Unit]] = [[]]
    used, after_comma = 0, None  # tokens in the last chunk; tokens and units in it up to and with its last comma
    for unit in units:
        if len(unit) > size:
            raise ValueError(f"{unit[0].text!r} takes {len(unit)} positions, a chunk has {size}")
        if unit[0].id == comma and unit[0].vector is None:
            after_comma = (used + 1, len(chunks[-1]) + 1)
        elif used == size and after_comma is not None and used + 1 - after_comma[0] <= backtrack:
            moved = chunks[-1][after_comma[1] :]
            del chunks[-1][after_comma[1] :]
            chunks.append(moved)
            used, after_comma = used - after_comma[0], None
        if used + len(unit) > size:
            chunks.append([])
            used, after_comma = 0, None
        chunks[-1].append(unit)
        used += len(unit)
    return chunks
