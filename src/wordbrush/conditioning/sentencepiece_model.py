"""Reading `spiece.model`, the file of a SentencePiece tokenizer (Kudo 2018), without its library.

The file is one protocol-buffers message. A message is a row of fields, each a number, a wire type and a value; the
numbers are those of sentencepiece_model.proto. Only what decides the ids is read.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wordbrush.errors import ModelFileError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
"""What a piece is: text, the stand-in for what no piece covers, a mark that no text holds, text that is never cut."""

_UNIGRAM = 1
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5


@dataclass(frozen=True, kw_only=True)
class SentencePieceModel:
    """What a spiece.model says.

    Attributes:
        pieces: every piece and its score, a log probability; the place in the row is the id.
        kinds: of every piece, one of the constants above.
        charsmap: the compiled rules that normalise the text's characters; empty for none.
    """

    pieces: tuple[tuple[str, float], ...]
    kinds: tuple[int, ...]
    charsmap: bytes


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Reads the file.

    Raises:
        ModelFileError: it is missing, damaged, or of a tokenizer that is not a unigram model.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ModelFileError(f"the tokenizer file {path} is missing; copy its folder again") from error
    except OSError as error:
        raise ModelFileError(f"the tokenizer file {path} cannot be read: {error}; copy it again") from error
    try:
        return _parse_model(content)
    except ValueError as error:  # a piece that is not UTF-8 among them
        raise ModelFileError(f"the tokenizer file {path} is damaged: {error}; copy it again") from error


def _parse_model(content: bytes) -> SentencePieceModel:
    pieces: list[tuple[str, float]] = []
    kinds: list[int] = []
    trained: dict[int, int | bytes] = {}
    normalised: dict[int, int | bytes] = {}
    for number, value in _fields(content):
        if number == 1:
            text, score, kind = _parse_piece(_message(value))
            pieces.append((text, score))
            kinds.append(kind)
        elif number == 2:
            trained.update(_fields(_message(value)))
        elif number == 3:
            normalised.update(_fields(_message(value)))
    algorithm, charsmap = trained.get(3, _UNIGRAM), _message(normalised.get(2, b""))
    if algorithm != _UNIGRAM:
        raise ValueError(f"its pieces are of kind {algorithm!r}, not those of a unigram model, which T5 has")
    return SentencePieceModel(pieces=tuple(pieces), kinds=tuple(kinds), charsmap=charsmap)


def _parse_piece(content: bytes) -> tuple[str, float, int]:
    text, score, kind = "", 0.0, NORMAL
    for number, value in _fields(content):
        if number == 1:
            text = _message(value).decode("utf-8")
        elif number == 2:
            (score,) = struct.unpack("<f", _message(value, length=4))
        elif number == 3 and isinstance(value, int):
            kind = value
    return text, score, kind


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Every field's number and value: a whole number, or the bytes of anything else."""
    at = 0
    while at < len(content):
        tag, at = _varint(content, at)
        wire = tag & 7
        if wire == _VARINT:
            number, at = _varint(content, at)
            yield tag >> 3, number
            continue
        if wire == _BYTES:
            length, at = _varint(content, at)
        elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
            length = 8 if wire == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"byte {at} holds the wire type {wire}, which there is not")
        if length > len(content) - at:
            raise ValueError(f"a field of {length} bytes begins {len(content) - at} bytes before its end")
        yield tag >> 3, content[at : at + length]
        at += length


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """The whole number at a place, seven bits a byte, least significant first; and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(content):
            raise ValueError("it ends in the middle of a number")
        byte = content[at]
        value, at = value | (byte & 0x7F) << shift, at + 1
        if byte < 0x80:
            return value, at
    raise ValueError(f"the number before byte {at} is longer than ten bytes")


def _message(value: int | bytes, *, length: int | None = None) -> bytes:
    if not isinstance(value, bytes) or (length is not None and len(value) != length):
        raise ValueError("a field does not have the type that its number says")
    return value


def check_scores(pieces: tuple[tuple[str, float], ...]) -> None:
    """Raises ValueError for pieces that no text can be cut into: none, an empty one, or a score that is no number."""
    if not pieces:
        raise ValueError("it holds no pieces")
    for index, (text, score) in enumerate(pieces):
        if not text or not math.isfinite(score):
            raise ValueError(f"piece {index} is {text!r} with the score {score}")


def check_charsmap(charsmap: bytes) -> None:
    """Raises ValueError unless every step through the rules stays inside them; the tokenizers library does not look.

    Four bytes give the size of a double-array trie, whose cells of 32 bits follow, and then the replacements, each
    ended by a zero. A cell is a leaf (highest bit; the rest is the place of a replacement) or leads to the block of 256
    cells around its own place, changed by its offset (bits 10 and up, shifted by 8 more if bit 9 is set); bit 8 says
    that the first of these is a leaf.
    """
    size = int.from_bytes(charsmap[:4], "little")
    cells, texts = charsmap[4 : 4 + size], charsmap[4 + size :]
    if len(cells) != size or size == 0 or size % 4 or not texts.endswith(b"\0"):
        raise ValueError("its character rules do not have the length they say")
    texts.decode("utf-8")
    units = np.frombuffer(cells, dtype="<u4").astype(np.int64)
    leaf = units >> 31 == 1
    target = np.arange(len(units)) ^ (units >> 10 << ((units & 512) >> 6))
    if leaf[0] or (target[~leaf] | 255).max() >= len(units):
        raise ValueError("its character rules lead out of their table")
    ends = units[target[~leaf & (units & 256 != 0)]]
    places = ends & 0x7FFF_FFFF
    if (ends >> 31 != 1).any() or (places >= len(texts)).any():
        raise ValueError("its character rules lead to no replacement")
    if (np.frombuffer(texts, dtype=np.uint8)[places] & 0xC0 == 0x80).any():
        raise ValueError("its character rules lead into the middle of a character")
