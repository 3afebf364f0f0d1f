"""What becomes of every word of a prompt: the form in which every model tells it."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from wordbrush.conditioning.tokenizer import ClipTokenizer, Piece


@dataclass(frozen=True, kw_only=True)
class TokenRow:
    """One line of the token table.

    Attributes:
        position: index in the sequence that the network is conditioned on; None for a piece that was cut.
        id, text: the piece and its number; of an embedding, its name and how many vectors it has, and no number.
        word: the word of the prompt that the piece belongs to, "" for start, end and padding.
        role: "start", "piece", "embedding", "end", "padding" or "cut".
        seen: False for a word that the model never met in training; None where that is not known.
        weight: how strongly its hidden state counts; 1 is as it is.
        chunk: which of the chunks that the encoder reads one by one; 0 is the first.
        number: which word of the prompt it belongs to, counted over all of them; None for start, end and padding.
        positions: how many positions of the sequence the row stands for; 0 if it was cut.
    """

    position: int | None
    id: int | None
    text: str
    word: str
    role: str
    seen: bool | None = None
    weight: float = 1.0
    chunk: int = 0
    number: int | None = None
    positions: int = 1


@dataclass(frozen=True, kw_only=True)
class PromptReport:
    """What the model can and cannot read of a prompt.

    Attributes:
        pieces: how many pieces the prompt has; an embedding counts as many as it has vectors.
        limit: how many the encoder reads at a time.
        chunks: in how many chunks it reads them.
        cut: the words, in order, that lie past what the model can read; CLIP, with its chunks, cuts none.
        unseen: the words, each once, that the model never met in training; empty when the model does not say.
        weights: the words whose weight is not 1, in order, with their weights.
        embeddings: the names of the embeddings in it, each once.
        unfit: why embeddings that the prompt names are read as plain text, one sentence each.
    """

    pieces: int
    limit: int
    chunks: int = 1
    cut: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    weights: tuple[tuple[str, float], ...] = ()
    embeddings: tuple[str, ...] = ()
    unfit: tuple[str, ...] = ()

    def sentences(self) -> list[str]:
        """What a user should know, one sentence each; none when every word was read and known."""
        said = []
        if self.cut:
            said.append(
                f"the prompt has {self.pieces} word pieces, the model reads {self.limit}; not read: {_listed(self.cut)}"
            )
        if self.unseen:
            said.append(f"the model has never seen, and will only guess at: {_listed(self.unseen)}")
        return [*said, *self.unfit]


class KnownWords:
    """The words that a model met in training, cut up as its tokenizer cuts them: "t-shirt" is three.

    Args:
        words: lower case; None when the model does not say.
    """

    def __init__(self, tokenizer: ClipTokenizer, words: frozenset[str] | None) -> None:
        self._known: frozenset[str] | None = None
        if words is not None:
            whole = {word for word in words if word.isalpha()}
            joined = (spellings(word, tokenizer.pieces(word)).values() for word in words - whole)
            self._known = frozenset(whole.union(*joined))

    def seen(self, word: str) -> bool | None:
        """Whether training showed the word; punctuation has no meaning to have been shown, and counts as seen."""
        if self._known is None:
            return None
        if all(unicodedata.category(character)[0] in "PZC" for character in word):
            return True
        return unicodedata.normalize("NFC", word).lower() in self._known

    def unseen(self, words: Collection[str]) -> tuple[str, ...]:
        """The words that training did not show, each once."""
        return tuple(dict.fromkeys(word for word in words if self.seen(word) is False))


def spellings(text: str, pieces: Sequence[Piece]) -> dict[int, str]:
    """Word number -> its spelling in the text."""
    spans: dict[int, tuple[int, int]] = {}
    for piece in pieces:
        start, end = spans.get(piece.word, (piece.start, piece.end))
        spans[piece.word] = (min(start, piece.start), max(end, piece.end))
    return {word: text[start:end].strip() for word, (start, end) in spans.items()}


def _listed(words: Sequence[str], most: int = 8) -> str:
    """The first words in quotes, and how many more there are."""
    shown = ", ".join(repr(word) for word in words[:most])
    return shown if len(words) <= most else f"{shown} and {len(words) - most} more"
