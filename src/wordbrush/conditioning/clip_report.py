"""The report and the token table of a text that CLIP reads."""

from __future__ import annotations

from collections.abc import Sequence

from wordbrush.conditioning.prompt.chunks import Chunk, Token
from wordbrush.conditioning.reading import Reading
from wordbrush.conditioning.report import KnownWords, PromptReport, TokenRow
from wordbrush.conditioning.tokenizer import ClipTokenizer


def report_of(reading: Reading, tokenizer: ClipTokenizer, known: KnownWords) -> PromptReport:
    """What the model can and cannot read of a text."""
    tokens = [token for chunk in reading.chunks for token in chunk]
    words = {token.index: token for token in reversed(tokens)}  # the first token of every word
    ordered = [words[index] for index in sorted(words)]
    return PromptReport(
        pieces=len(tokens),
        limit=tokenizer.max_length - 2,
        chunks=len(reading.chunks),
        unseen=known.unseen([token.word for token in ordered if token.vector is None]),
        weights=tuple((token.word, token.weight) for token in ordered if token.weight != 1.0),
        embeddings=tuple(dict.fromkeys(token.word for token in ordered if token.vector is not None)),
        unfit=reading.unfit,
    )


def table_of(reading: Reading, tokenizer: ClipTokenizer, known: KnownWords) -> list[TokenRow]:
    """Every token of the sequence that the network is conditioned on, chunk after chunk.

    The padding of a chunk is one row, and so are the vectors of an embedding; `position` is where they begin.
    """
    return [row for number, chunk in enumerate(reading.chunks) for row in _rows(chunk, number, tokenizer, known)]


def _rows(chunk: Chunk, number: int, tokenizer: ClipTokenizer, known: KnownWords) -> list[TokenRow]:
    first, special = number * tokenizer.max_length, tokenizer.special

    def mark(place: int, index: int, text: str, role: str, positions: int = 1) -> TokenRow:
        return TokenRow(
            position=first + place, id=index, text=text, word="", role=role, chunk=number, positions=positions
        )

    rows = [mark(0, tokenizer.bos_id, special.bos, "start")]
    for place, token in enumerate(chunk, start=1):
        if token.vector is None:
            rows.append(_piece(token, first + place, number, known))
        elif token.vector == 0:
            rows.append(_embedding(token, first + place, number, chunk[place - 1 :]))
    end = len(chunk) + 1
    rows.append(mark(end, tokenizer.eos_id, special.eos, "end"))
    if end + 1 < tokenizer.max_length:
        left = tokenizer.max_length - end - 1
        rows.append(mark(end + 1, tokenizer.pad_id, f"{special.pad} × {left}", "padding", left))
    return rows


def _piece(token: Token, position: int, number: int, known: KnownWords) -> TokenRow:
    return TokenRow(
        position=position, id=token.id, text=token.text, word=token.word, role="piece", seen=known.seen(token.word),
        weight=token.weight, chunk=number, number=token.index,
    )  # fmt: skip


def _embedding(token: Token, position: int, number: int, rest: Sequence[Token]) -> TokenRow:
    count = sum(other.index == token.index for other in rest)
    return TokenRow(
        position=position, id=None, text=f"{token.text} × {count}", word=token.word, role="embedding",
        weight=token.weight, chunk=number, number=token.index, positions=count,
    )  # fmt: skip
