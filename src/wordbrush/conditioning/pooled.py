"""Prompts for models conditioned on CLIP's embedding of a whole text or picture, as one vector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from wordbrush.conditioning.classes import empty_context
from wordbrush.conditioning.clip import ClipText
from wordbrush.conditioning.clip_report import report_of, table_of
from wordbrush.conditioning.conditioning import PLAIN, Conditioning, TextOptions
from wordbrush.conditioning.embeddings import Embeddings, EmbeddingTable
from wordbrush.conditioning.report import KnownWords, PromptReport, TokenRow
from wordbrush.conditioning.tokenizer import ClipTokenizer
from wordbrush.networks.clip import CLIPTextModel
from wordbrush.networks.unet import UNet


def unit_variance(embeddings: Tensor) -> Tensor:
    """CLIP embeddings (B, P) on the sphere of radius sqrt(P), so that their numbers have about unit variance."""
    return F.normalize(embeddings.float(), dim=1) * embeddings.shape[1] ** 0.5


class EmbeddingConditioner:
    """CLIP's projected embedding of a text, as the one token that the U-Net attends to or added to its time.

    Texts and pictures have one space of embeddings, so a model trained on embeddings of pictures takes those of texts
    (Ramesh 2022). An empty text is the null embedding, zeros, that guidance starts from. Only a text's first chunk is
    read, since its embedding is that of one sequence.

    Args:
        unet: what is told; its config says in which way.
        encoder: with its projection.
        known_words, embeddings: as in `TextConditioner`.
    """

    def __init__(
        self,
        unet: UNet,
        tokenizer: ClipTokenizer,
        encoder: CLIPTextModel,
        *,
        known_words: frozenset[str] | None = None,
        embeddings: Embeddings | None = None,
    ) -> None:
        if encoder.text_projection is None:
            raise ValueError("an embedding of the whole text needs the text encoder's text_projection")
        self.unet, self.tokenizer, self.encoder = unet, tokenizer, encoder
        self._known = KnownWords(tokenizer, known_words)
        table = EmbeddingTable(embeddings or {}, {"text_encoder": encoder.config.hidden_size}, tokenizer.max_length - 2)
        self._clip = ClipText(tokenizer, encoder, table, role="text_encoder", norm=True)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], options: TextOptions = PLAIN, *, length: int | None = None) -> Conditioning:
        """One row a text: context (B, 1, D), and pooled (B, P) where it is added to the time.

        Raises:
            RequestError: a weight is out of range, an embedding is not there, or layers of CLIP are to be skipped.
        """
        states = self._clip.encode(self._clip.chunks(texts, options, None), options.clip_skip or 1, options)
        projected = torch.cat([state.projected for state in states if state.projected is not None])  # (B, P)
        vectors = unit_variance(projected).to(self.unet.conv_in.weight)
        for row, text in enumerate(texts):
            if not text.strip():
                vectors[row] = 0.0
        if self.unet.config.class_embed_type is None:
            return Conditioning(context=vectors[:, None])
        return Conditioning(context=empty_context(self.unet, len(texts)), pooled=vectors)

    def encode_negative(
        self, texts: Sequence[str], options: TextOptions = PLAIN, *, length: int | None = None
    ) -> Conditioning:
        """As `encode`."""
        return self.encode(texts, options, length=length)

    def length(self, text: str, options: TextOptions = PLAIN) -> int:
        """Always 1: a text is one token."""
        return 1

    def report(self, text: str, options: TextOptions = PLAIN) -> PromptReport:
        """What the model can and cannot read of the text."""
        return report_of(self._clip.reader.read(text, options), self.tokenizer, self._known)

    def table(self, text: str, options: TextOptions = PLAIN) -> list[TokenRow]:
        """Every token of the sequence that the encoder reads."""
        return table_of(self._clip.reader.read(text, options), self.tokenizer, self._known)
