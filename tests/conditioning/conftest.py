"""A small tokenizer and a small random text encoder that read 22 pieces at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from wordbrush.conditioning.text import TextConditioner
from wordbrush.conditioning.tokenizer import ClipTokenizer, SpecialTokens
from wordbrush.networks.clip import CLIPTextConfig, CLIPTextModel

LENGTH = 24
WORDS = frozenset(
    {"a", "fox", "on", "blue", "background", "three", "cats", "red", "car", "green", "house", "it", "'s", "is"}
)


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_tokenizer_files: Path) -> ClipTokenizer:
    files = ClipTokenizer.from_folder(tiny_tokenizer_files)
    return ClipTokenizer(files.vocab, files.merges, special=SpecialTokens(), max_length=LENGTH)


@pytest.fixture(scope="session")
def tiny_encoder(tiny_tokenizer: ClipTokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tiny_tokenizer.vocab), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=LENGTH, projection_dim=32,
        bos_token_id=tiny_tokenizer.bos_id, eos_token_id=tiny_tokenizer.eos_id,
    )  # fmt: skip
    encoder = CLIPTextModel(config).eval()
    generator = torch.Generator().manual_seed(0)
    encoder.initialise(generator)
    with torch.no_grad():  # as after training: the states have a mean
        encoder.text_model.final_layer_norm.bias.normal_(0.2, 0.1, generator=generator)
    return encoder


@pytest.fixture(scope="session")
def conditioner(tiny_tokenizer: ClipTokenizer, tiny_encoder: CLIPTextModel) -> TextConditioner:
    return TextConditioner(tiny_tokenizer, tiny_encoder, known_words=WORDS)
