"""Whether the parts of a model belong together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from wordbrush.conditioning.tokenizer import ClipTokenizer
from wordbrush.errors import ModelFileError
from wordbrush.formats.parts import OWN_FAMILIES, ModelParts
from wordbrush.networks.clip import CLIPTextModel
from wordbrush.networks.unet import UNetConfig


def check_fit(parts: ModelParts, source: Path) -> None:
    """Raises `ModelFileError`, naming `source`, when the parts do not belong together."""
    problems = (*_denoiser(parts), *_tokenizer(parts.text_encoder, parts.tokenizer, "text encoder"))
    if isinstance(parts.text_encoder_2, CLIPTextModel):
        problems += (*_tokenizer(parts.text_encoder_2, parts.tokenizer_2, "second text encoder"),)
    for problem in problems:
        raise ModelFileError(f"the parts of {source} do not belong together: {problem}")


def _denoiser(parts: ModelParts) -> Iterator[str]:
    latents = parts.vae.config.latent_channels
    if parts.unet is None:
        yield from _transformer(parts, latents)
        return
    config = parts.unet.config
    beside = config.in_channels - latents
    if config.out_channels != latents or beside not in (0, 1, latents, latents + 1):  # 1: time, as a band
        yield f"the U-Net takes {config.in_channels} and gives {config.out_channels} channels, the VAE makes {latents}"
    if parts.family in OWN_FAMILIES:
        yield from _of_labels(parts, config)
        return
    if config.label_width is not None:
        yield "the U-Net is told of classes, which a model of its parts does not know"
    encoders = [encoder for encoder in (parts.text_encoder, parts.text_encoder_2) if isinstance(encoder, CLIPTextModel)]
    width = sum(encoder.config.hidden_size for encoder in encoders)
    if config.cross_attention_dim != width:
        yield f"the U-Net reads {config.cross_attention_dim} numbers a token, the text encoder gives {width}"
    if (config.addition_embed_type is None) != (parts.text_encoder_2 is None):
        yield "the U-Net and the text encoders are not of one family"
    if config.addition_embed_type is not None and encoders:
        pooled = encoders[-1].config.projection_dim
        numbers = (config.projection_class_embeddings_input_dim or 0) - pooled
        if numbers not in (5 * (config.addition_time_embed_dim or 0), 6 * (config.addition_time_embed_dim or 0)):
            yield (
                f"the U-Net takes {config.projection_class_embeddings_input_dim} numbers beside the time, "
                f"{pooled} of which are the text encoder's, which leaves neither 5 nor 6 times "
                f"{config.addition_time_embed_dim}"
            )


def _of_labels(parts: ModelParts, config: UNetConfig) -> Iterator[str]:
    """Of models without words, and of those that know CLIP's embedding of the whole text."""
    if parts.family == "class" and config.num_class_embeds != len(parts.labels or ()) + 1:
        yield (
            f"the U-Net knows num_class_embeds={config.num_class_embeds} classes; "
            f"the {len(parts.labels or ())} named ones and the null class are {len(parts.labels or ()) + 1}"
        )
    if parts.family == "unconditional" and config.label_width is not None:
        yield "the U-Net is told of classes, and id2label names none"
    if parts.family == "embedding" and parts.text_encoder is not None:
        told = config.cross_attention_dim if config.class_embed_type is None else config.label_width
        if told != parts.text_encoder.config.projection_dim or config.num_class_embeds is not None:
            yield f"the U-Net is told {told} numbers, an embedding has {parts.text_encoder.config.projection_dim}"


def _transformer(parts: ModelParts, latents: int) -> Iterator[str]:
    assert parts.transformer is not None
    config = parts.transformer.config
    if config.in_channels != 4 * latents and parts.picture_input is None:
        yield f"the transformer takes {config.in_channels} channels, the VAE makes {latents}, four times packed"
    if parts.text_encoder is None or parts.text_encoder_2 is None:
        yield "a FLUX model has two text encoders, CLIP and T5"
        return
    pooled, width = parts.text_encoder.config.hidden_size, parts.text_encoder_2.config.d_model  # type: ignore[union-attr]
    if config.pooled_projection_dim != pooled:
        yield f"the transformer takes {config.pooled_projection_dim} pooled numbers, the text encoder gives {pooled}"
    if config.joint_attention_dim != width:
        yield f"the transformer reads {config.joint_attention_dim} numbers a token, the T5 encoder gives {width}"


def _tokenizer(encoder: CLIPTextModel | None, tokenizer: object, name: str) -> Iterator[str]:
    if encoder is None or not isinstance(tokenizer, ClipTokenizer):
        return
    words, length = encoder.config.vocab_size, encoder.config.max_position_embeddings
    last = max(tokenizer.vocab.values())
    if last >= words:
        yield f"the tokenizer has ids up to {last}, the {name} knows {words}"
    if tokenizer.max_length > length:
        yield f"the tokenizer makes {tokenizer.max_length} tokens, the {name} takes {length}"
