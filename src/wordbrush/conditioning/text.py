"""Prompts to embeddings with one CLIP text encoder, and an account of what became of every word."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from wordbrush.conditioning.clip import ClipText
from wordbrush.conditioning.clip_report import report_of, table_of
from wordbrush.conditioning.conditioning import PLAIN, Conditioning, TextOptions
from wordbrush.conditioning.embeddings import Embeddings, EmbeddingTable
from wordbrush.conditioning.report import KnownWords, PromptReport, TokenRow
from wordbrush.conditioning.tokenizer import ClipTokenizer
from wordbrush.networks.clip import CLIPTextModel


class TextConditioner:
    """Turns prompts into what the U-Net of Stable Diffusion 1 and 2 attends to: hidden states of one CLIP text encoder.

    Args:
        known_words: lower-case words the model was trained with; None when the model does not say.
        embeddings: what prompts may name; vectors for "text_encoder" are used.
    """

    def __init__(
        self,
        tokenizer: ClipTokenizer,
        encoder: CLIPTextModel,
        *,
        known_words: frozenset[str] | None = None,
        embeddings: Embeddings | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.known_words = known_words
        self._known = KnownWords(tokenizer, known_words)
        table = EmbeddingTable(embeddings or {}, {"text_encoder": encoder.config.hidden_size}, tokenizer.max_length - 2)
        self._clip = ClipText(tokenizer, encoder, table, role="text_encoder", norm=True)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], options: TextOptions = PLAIN, *, length: int | None = None) -> Conditioning:
        """One row a text: (len(texts), L, D), L a multiple of the encoder's own length.

        Every chunk of a text goes through the encoder alone, so that its embedding does not depend on its neighbours.
        For other texts beside it, or a larger `length`, a row is only padded, with the states of empty chunks.

        Raises:
            RequestError: a weight is out of range, an embedding is not there, or clip_skip exceeds the layers.
        """
        chunks = self._clip.chunks(texts, options, length)
        states = self._clip.encode(chunks, 1 if options.clip_skip is None else options.clip_skip, options)
        return Conditioning(context=torch.cat([state.hidden for state in states]))

    def encode_negative(
        self, texts: Sequence[str], options: TextOptions = PLAIN, *, length: int | None = None
    ) -> Conditioning:
        """As `encode`: an empty negative prompt is a text like any other."""
        return self.encode(texts, options, length=length)

    def length(self, text: str, options: TextOptions = PLAIN) -> int:
        """How long a context (L) this text alone needs."""
        return len(self._clip.reader.read(text, options).chunks) * self.tokenizer.max_length

    def report(self, text: str, options: TextOptions = PLAIN) -> PromptReport:
        """What the model can and cannot read of the text."""
        return report_of(self._clip.reader.read(text, options), self.tokenizer, self._known)

    def table(self, text: str, options: TextOptions = PLAIN) -> list[TokenRow]:
        """Every token of the sequence that the U-Net attends to, chunk after chunk."""
        return table_of(self._clip.reader.read(text, options), self.tokenizer, self._known)
