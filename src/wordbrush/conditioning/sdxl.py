"""Prompts to embeddings with the two CLIP text encoders of Stable Diffusion XL (Podell 2023), or the refiner's one."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from wordbrush.conditioning.clip import ClipText
from wordbrush.conditioning.clip_report import report_of, table_of
from wordbrush.conditioning.conditioning import PLAIN, Conditioning, TextOptions
from wordbrush.conditioning.embeddings import Embeddings, EmbeddingTable
from wordbrush.conditioning.prompt.chunks import Chunk
from wordbrush.conditioning.report import KnownWords, PromptReport, TokenRow
from wordbrush.conditioning.tokenizer import ClipTokenizer
from wordbrush.networks.clip import CLIPTextModel

_OWN_LAYER = 2
"""The layer before the last, which the model was trained with."""


class SDXLConditioner:
    """Turns prompts into what the U-Net of SDXL attends to, and into one vector for the whole prompt.

    The context is the layer before the last of CLIP-L and of OpenCLIP-bigG, side by side (768 + 1280 channels), without
    the final layer norm. The pooled vector is bigG's, of the first chunk, projected. The refiner has bigG alone.

    Clip skip 1 and 2 both mean the model's own layer, since that is the one before the last; 3 and more count on from
    there, for both encoders (3 is diffusers' clip_skip=1). The pooled vector is always that of the last layer.

    Args:
        tokenizer, text_encoder: CLIP-L; None for the refiner.
        tokenizer_2, text_encoder_2: OpenCLIP-bigG, with its projection.
        zero_negative: whether an empty negative prompt is all zeros, as SDXL's base model was trained.
        embeddings: what prompts may name; they need vectors for every encoder.
    """

    def __init__(
        self,
        *,
        tokenizer: ClipTokenizer | None,
        text_encoder: CLIPTextModel | None,
        tokenizer_2: ClipTokenizer,
        text_encoder_2: CLIPTextModel,
        zero_negative: bool,
        known_words: frozenset[str] | None = None,
        embeddings: Embeddings | None = None,
    ) -> None:
        if text_encoder_2.text_projection is None:
            raise ValueError("the second text encoder of SDXL needs its text_projection")
        self.tokenizer = tokenizer_2
        self.known_words = known_words
        self.zero_negative = zero_negative
        self._known = KnownWords(tokenizer_2, known_words)
        parts = [("text_encoder_2", tokenizer_2, text_encoder_2)]
        if tokenizer is not None and text_encoder is not None:
            parts.insert(0, ("text_encoder", tokenizer, text_encoder))
        widths = {role: encoder.config.hidden_size for role, _, encoder in parts}
        table = EmbeddingTable(embeddings or {}, widths, tokenizer_2.max_length - 2)
        self._clips = [ClipText(words, encoder, table, role=role, norm=False) for role, words, encoder in parts]

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], options: TextOptions = PLAIN, *, length: int | None = None) -> Conditioning:
        """One row a text: context (len(texts), L, 768 + 1280), pooled (len(texts), 1280) in the full-size model.

        Raises:
            RequestError: a weight is out of range, an embedding is not there, or clip_skip exceeds the layers.
        """
        layer = _OWN_LAYER if options.clip_skip is None else max(options.clip_skip, _OWN_LAYER)
        chunks = [clip.chunks(texts, options, length) for clip in self._clips]
        states = [clip.encode(part, layer, options) for clip, part in zip(self._clips, _even(chunks), strict=True)]
        context = torch.cat([torch.cat([state.hidden for state in part]) for part in states], dim=2)
        pooled = [state.projected for state in states[-1] if state.projected is not None]
        return Conditioning(context=context, pooled=torch.cat(pooled))

    @torch.inference_mode()
    def encode_negative(
        self, texts: Sequence[str], options: TextOptions = PLAIN, *, length: int | None = None
    ) -> Conditioning:
        """As `encode`, but empty texts become zeros if the model wants that."""
        found = self.encode(texts, options, length=length)
        if found.pooled is not None and self.zero_negative:
            for row, text in enumerate(texts):
                if not text.strip():
                    found.context[row], found.pooled[row] = 0.0, 0.0
        return found

    def length(self, text: str, options: TextOptions = PLAIN) -> int:
        """How long a context (L) this text alone needs."""
        return max(len(clip.chunks([text], options, None)[0]) * self.tokenizer.max_length for clip in self._clips)

    def report(self, text: str, options: TextOptions = PLAIN) -> PromptReport:
        """What the model can and cannot read of the text."""
        return report_of(self._clips[-1].reader.read(text, options), self.tokenizer, self._known)

    def table(self, text: str, options: TextOptions = PLAIN) -> list[TokenRow]:
        """Every token of the sequence that the U-Net attends to, as the tokenizer of bigG cuts it.

        That of CLIP-L has the same vocabulary and only pads with another token.
        """
        return table_of(self._clips[-1].reader.read(text, options), self.tokenizer, self._known)


def _even(encoders: Sequence[list[tuple[Chunk, ...]]]) -> list[list[tuple[Chunk, ...]]]:
    """As many chunks for every encoder, should their vocabularies differ."""
    most = max(len(chunks) for texts in encoders for chunks in texts)
    return [[chunks + ((),) * (most - len(chunks)) for chunks in texts] for texts in encoders]
