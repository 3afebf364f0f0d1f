"""Which conditioner a model's texts go through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from wordbrush.conditioning.classes import ClassConditioner, NoConditioner
from wordbrush.conditioning.conditioning import Conditioner
from wordbrush.conditioning.embeddings import Embeddings
from wordbrush.conditioning.pooled import EmbeddingConditioner
from wordbrush.conditioning.sdxl import SDXLConditioner
from wordbrush.conditioning.text import TextConditioner
from wordbrush.conditioning.tokenizer import ClipTokenizer
from wordbrush.formats.by_name import NamedEmbeddings
from wordbrush.formats.parts import ModelParts
from wordbrush.networks.clip import CLIPTextModel

if TYPE_CHECKING:  # only FLUX has these
    from wordbrush.conditioning.t5_tokenizer import T5Tokenizer
    from wordbrush.formats.lora import LoraFile
    from wordbrush.networks.t5 import T5Encoder

# What pictures of the refiner are asked to look like, and not to: diffusers' aesthetic scores.
_SCORES = (6.0, 2.5)


def conditioner_of(parts: ModelParts, embeddings: Embeddings | None = None) -> Conditioner:
    """The conditioner of a model's family, with its encoders.

    embeddings: what prompts may name, in models that know them: not FLUX.
    """
    if parts.family.startswith("flux"):
        return _flux(parts)
    if parts.family.startswith("sdxl"):
        return SDXLConditioner(
            tokenizer=parts.tokenizer,
            text_encoder=parts.text_encoder,
            tokenizer_2=cast(ClipTokenizer, parts.tokenizer_2),
            text_encoder_2=cast(CLIPTextModel, parts.text_encoder_2),
            zero_negative=parts.zero_negative,
            known_words=parts.known_words,
            embeddings=embeddings,
        )
    if parts.family in ("class", "unconditional"):
        assert parts.unet is not None
        return NoConditioner(parts.unet) if parts.labels is None else ClassConditioner(parts.unet, parts.labels)
    assert parts.tokenizer is not None
    assert parts.text_encoder is not None
    if parts.family == "embedding":
        assert parts.unet is not None
        return EmbeddingConditioner(
            parts.unet, parts.tokenizer, parts.text_encoder, known_words=parts.known_words, embeddings=embeddings
        )
    return TextConditioner(
        parts.tokenizer, parts.text_encoder, known_words=parts.known_words, embeddings=embeddings
    )


def taught_by(loras: Sequence[LoraFile], parts: ModelParts) -> Conditioner | None:
    """The conditioner of a model with LoRAs that bring words: vectors of their own, or triggers that they were taught.

    None where they bring none.
    """
    words = {name: found.vectors for lora in loras for name, found in lora.embeddings.items()}
    known = parts.known_words
    if known is not None:
        known = known.union(*(lora.triggers for lora in loras))
    if not words and known == parts.known_words:
        return None
    return conditioner_of(replace(parts, known_words=known), NamedEmbeddings(words))


def _flux(parts: ModelParts) -> Conditioner:
    from wordbrush.conditioning.flux import DEV_LENGTH, SCHNELL_LENGTH, FluxConditioner

    assert parts.tokenizer is not None
    assert parts.text_encoder is not None
    return FluxConditioner(
        tokenizer=parts.tokenizer,
        text_encoder=parts.text_encoder,
        tokenizer_2=cast("T5Tokenizer", parts.tokenizer_2),
        text_encoder_2=cast("T5Encoder", parts.text_encoder_2),
        max_length=SCHNELL_LENGTH if parts.family == "flux-schnell" else DEV_LENGTH,
    )


def time_ids(parts: ModelParts, width: int, height: int) -> tuple[Tensor, Tensor] | None:
    """What Stable Diffusion XL is told beside the pooled text, for prompts and for negative prompts: (1, 6) each.

    As of a training picture of this size that was not cropped: height, width, 0, 0, height, width (Podell 2023, §2.2).
    The refiner is told the aesthetic score in place of the last two, (1, 5). None for other models.
    """
    if parts.unet is None or parts.unet.config.addition_embed_type is None:
        return None
    config, encoder = parts.unet.config, cast(CLIPTextModel, parts.text_encoder_2)
    numbers = (config.projection_class_embeddings_input_dim or 0) - encoder.config.projection_dim
    placed = [height, width, 0, 0]
    if numbers == 5 * (config.addition_time_embed_dim or 0):
        return torch.tensor([[*placed, _SCORES[0]]]), torch.tensor([[*placed, _SCORES[1]]])
    ids = torch.tensor([[*map(float, placed), float(height), float(width)]])
    return ids, ids
