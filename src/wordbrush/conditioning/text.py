"""Prompts to embeddings, and an account of what became of every word."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from wordbrush.conditioning.tokenizer import ClipTokenizer, Piece
from wordbrush.networks.clip import CLIPTextModel


@dataclass(frozen=True, kw_only=True)
class TokenRow:
    """One line of the token table.

    Attributes:
        position: index in the sequence the text encoder reads; None for a piece that was cut.
        id, text: the piece and its number.
        word: the word of the prompt that the piece belongs to, "" for start, end and padding.
        role: "start", "piece", "end", "padding" or "cut".
        seen: False for a word that the model never met in training; None where that is not known.
    """

    position: int | None
    id: int
    text: str
    word: str
    role: str
    seen: bool | None = None


@dataclass(frozen=True, kw_only=True)
class PromptReport:
    """What the model can and cannot read of a prompt.

    Attributes:
        pieces: how many pieces the prompt has.
        limit: how many the model reads.
        cut: the words, in order, that lie wholly or partly past the limit.
        unseen: the words, each once, that the model never met in training; empty when the model does not say.
    """

    pieces: int
    limit: int
    cut: tuple[str, ...]
    unseen: tuple[str, ...]

    def sentences(self) -> list[str]:
        """What a user should know, one sentence each; none when every word was read and known."""
        said = []
        if self.cut:
            said.append(
                f"the prompt has {self.pieces} word pieces, the model reads {self.limit}; not read: {_listed(self.cut)}"
            )
        if self.unseen:
            said.append(f"the model has never seen, and will only guess at: {_listed(self.unseen)}")
        return said


class TextConditioner:
    """Turns prompts into what the U-Net attends to: the last hidden states of a CLIP text encoder.

    Args:
        known_words: lower-case words the model was trained with; None when the model does not say.
    """

    def __init__(
        self, tokenizer: ClipTokenizer, encoder: CLIPTextModel, *, known_words: frozenset[str] | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.known_words = known_words
        self._known_pieces = None if known_words is None else _split_words(tokenizer, known_words)

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> torch.Tensor:
        """Returns (len(prompts), L, D).

        Every prompt goes through the encoder alone, so that its embedding does not depend on its neighbours.
        """
        device = next(self.encoder.parameters()).device
        rows = [torch.tensor([self.tokenizer.encode(prompt)], device=device) for prompt in prompts]  # (1, L) each
        return torch.cat([self.encoder(row).last_hidden_state for row in rows])

    def report(self, prompt: str) -> PromptReport:
        """What the model can and cannot read of the prompt."""
        pieces = self.tokenizer.pieces(prompt)
        limit = self.tokenizer.max_length - 2
        words = _words(prompt, pieces)
        cut = dict.fromkeys(piece.word for piece in pieces[limit:])
        unseen = dict.fromkeys(word for word in words.values() if self._seen(word) is False)
        return PromptReport(
            pieces=len(pieces), limit=limit, cut=tuple(words[index] for index in cut), unseen=tuple(unseen)
        )

    def table(self, prompt: str) -> list[TokenRow]:
        """Every token of the sequence that the encoder reads, then the pieces that were cut. Padding is one row."""
        tokenizer, pieces = self.tokenizer, self.tokenizer.pieces(prompt)
        words, limit = _words(prompt, pieces), self.tokenizer.max_length - 2
        rows = [TokenRow(position=0, id=tokenizer.bos_id, text=tokenizer.special.bos, word="", role="start")]
        for number, piece in enumerate(pieces):
            word, read = words[piece.word], number < limit
            row = TokenRow(
                position=number + 1 if read else None,
                id=piece.id,
                text=piece.text,
                word=word,
                role="piece" if read else "cut",
                seen=self._seen(word),
            )
            rows.append(row)
        end = min(len(pieces), limit) + 1
        rows.insert(end, TokenRow(position=end, id=tokenizer.eos_id, text=tokenizer.special.eos, word="", role="end"))
        if end + 1 < tokenizer.max_length:
            text = f"{tokenizer.special.pad} × {tokenizer.max_length - end - 1}"
            rows.append(TokenRow(position=end + 1, id=tokenizer.pad_id, text=text, word="", role="padding"))
        return rows

    def _seen(self, word: str) -> bool | None:
        """Whether training showed the word; punctuation has no meaning to have been shown, and counts as seen."""
        if self._known_pieces is None:
            return None
        if all(unicodedata.category(character)[0] in "PZC" for character in word):
            return True
        return unicodedata.normalize("NFC", word).lower() in self._known_pieces


def _words(prompt: str, pieces: Sequence[Piece]) -> dict[int, str]:
    """Word number -> its spelling in the prompt."""
    spans: dict[int, tuple[int, int]] = {}
    for piece in pieces:
        start, end = spans.get(piece.word, (piece.start, piece.end))
        spans[piece.word] = (min(start, piece.start), max(end, piece.end))
    return {word: prompt[start:end].strip() for word, (start, end) in spans.items()}


def _split_words(tokenizer: ClipTokenizer, words: frozenset[str]) -> frozenset[str]:
    """The words as the tokenizer cuts them: "t-shirt" is three."""
    whole = {word for word in words if word.isalpha()}
    joined = (_words(word, tokenizer.pieces(word)).values() for word in words - whole)
    return frozenset(whole.union(*joined))


def _listed(words: Sequence[str], most: int = 8) -> str:
    """The first words in quotes, and how many more there are."""
    shown = ", ".join(repr(word) for word in words[:most])
    return shown if len(words) <= most else f"{shown} and {len(words) - most} more"
