"""A text as CLIP reads it: weights, breaks and embeddings understood, words cut into pieces, pieces put into chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count

from wordbrush.conditioning.conditioning import TextOptions
from wordbrush.conditioning.embeddings import EmbeddingTable
from wordbrush.conditioning.prompt import syntax
from wordbrush.conditioning.prompt.chunks import Chunk, Token, Unit, chunked
from wordbrush.conditioning.report import spellings
from wordbrush.conditioning.tokenizer import WORD_END, ClipTokenizer, Piece


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A text as the encoder reads it.

    Attributes:
        chunks: at least one.
        unfit: why embeddings that it names are read as plain text, one sentence each.
    """

    chunks: tuple[Chunk, ...]
    unfit: tuple[str, ...] = ()


class Reader:
    """Reads texts with one tokenizer.

    A word is an embedding if it is the embedding's name, whatever its case (as in A1111), or if it is written
    `embedding:name` (as in ComfyUI).
    """

    def __init__(self, tokenizer: ClipTokenizer, embeddings: EmbeddingTable) -> None:
        self.tokenizer = tokenizer
        self.size = tokenizer.max_length - 2
        self._embeddings = embeddings
        self._comma = tokenizer.vocab.get("," + WORD_END)
        special = (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
        self._filler = next(index for index in count() if index not in special)

    def read(self, text: str, options: TextOptions) -> Reading:
        """The chunks of a text.

        Raises:
            RequestError: a weight is out of range, or `embedding:` names none that the model can use.
            ModelFileError: the file of an embedding is damaged.
        """
        sections = syntax.literal(text) if options.emphasis == "none" else syntax.parse(text)
        run = _Run(numbers=count())
        filled = [list(self._section(section, run)) for section in sections]
        chunks = chunked(filled, size=self.size, comma=self._comma, backtrack=options.comma_backtrack)
        return Reading(chunks=chunks, unfit=tuple(run.unfit))

    @cached_property
    def _names(self) -> dict[int, list[tuple[tuple[int, ...], str]]]:
        """First piece of a name -> all its pieces and the name, the longest first."""
        found: dict[int, list[tuple[tuple[int, ...], str]]] = {}
        for name in self._embeddings.names:
            ids = tuple(piece.id for piece in self.tokenizer.pieces(name))
            if ids:
                found.setdefault(ids[0], []).append((ids, name))
        for named in found.values():
            named.sort(key=lambda pair: len(pair[0]), reverse=True)
        return found

    def _section(self, section: syntax.Section, run: _Run) -> Iterator[Unit]:
        for text, weight in ((part.text, part.weight) for part in section):
            for before, name in self._embeddings.split(text):
                yield from self._plain(before, weight, run)
                if name is not None:
                    yield self._vectors(name, weight, run)

    def _plain(self, text: str, weight: float, run: _Run) -> Iterator[Unit]:
        """The units of a text without syntax; words that name embeddings become their vectors."""
        pieces = self.tokenizer.pieces(text)
        written = spellings(text, pieces)
        numbers: dict[int, int] = {}
        place = 0
        while place < len(pieces):
            piece = pieces[place]
            if place == 0 or piece.word != pieces[place - 1].word:
                name, width = self._named_at(pieces, place, run)
                if name is not None:
                    yield self._vectors(name, weight, run)
                    place += width
                    continue
            if piece.word not in numbers:
                numbers[piece.word] = next(run.numbers)
            yield (
                Token(
                    id=piece.id,
                    text=piece.text,
                    word=written[piece.word],
                    index=numbers[piece.word],
                    weight=weight,
                ),
            )
            place += 1

    def _named_at(self, pieces: Sequence[Piece], place: int, run: _Run) -> tuple[str | None, int]:
        """The longest name that the pieces spell from `place` on, and how many they are."""
        for ids, name in self._names.get(pieces[place].id, ()):
            if ids == tuple(piece.id for piece in pieces[place : place + len(ids)]):
                reason = self._embeddings.unfit(name)
                if reason is None:
                    return name, len(ids)
                run.unfit[f"the embedding {name!r} is read as plain text: {reason}"] = None
        return None, 0

    def _vectors(self, name: str, weight: float, run: _Run) -> Unit:
        index = next(run.numbers)
        return tuple(
            Token(id=self._filler, text=name, word=name, index=index, weight=weight, vector=vector)
            for vector in range(self._embeddings.count(name))
        )


@dataclass
class _Run:
    """What is counted while one text is read."""

    numbers: Iterator[int]
    unfit: dict[str, None] = field(default_factory=dict)
