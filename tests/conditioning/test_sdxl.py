"""SDXL's two encoders: embeddings in both, clip skip, and what is refused. Parity is in tests/parity."""

from __future__ import annotations

import pytest
import torch

from wordbrush.conditioning.conditioning import TextOptions
from wordbrush.conditioning.sdxl import SDXLConditioner
from wordbrush.conditioning.tokenizer import ClipTokenizer
from wordbrush.errors import RequestError
from wordbrush.networks.clip import CLIPTextConfig, CLIPTextModel

DRAW = torch.Generator().manual_seed(9)
FUR = {"text_encoder": torch.randn(2, 32, generator=DRAW), "text_encoder_2": torch.randn(2, 16, generator=DRAW)}
EMBEDDINGS = {"fur": FUR, "half": {"text_encoder": FUR["text_encoder"]}}


@pytest.fixture(scope="module")
def second(tiny_tokenizer: ClipTokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tiny_tokenizer.vocab), hidden_size=16, intermediate_size=32, num_hidden_layers=3,
        num_attention_heads=2, max_position_embeddings=24, projection_dim=12, hidden_act="gelu",
        bos_token_id=tiny_tokenizer.bos_id, eos_token_id=tiny_tokenizer.eos_id,
    )  # fmt: skip
    encoder = CLIPTextModel(config, projection=True).eval()
    encoder.initialise(torch.Generator().manual_seed(1))
    return encoder


@pytest.fixture(scope="module")
def conditioner(
    tiny_tokenizer: ClipTokenizer, tiny_encoder: CLIPTextModel, second: CLIPTextModel
) -> SDXLConditioner:
    return SDXLConditioner(
        tokenizer=tiny_tokenizer, text_encoder=tiny_encoder, tokenizer_2=tiny_tokenizer, text_encoder_2=second,
        zero_negative=False, embeddings=EMBEDDINGS,
    )  # fmt: skip


def test_an_embedding_stands_in_both_encoders(
    conditioner: SDXLConditioner, tiny_tokenizer: ClipTokenizer, tiny_encoder: CLIPTextModel, second: CLIPTextModel
) -> None:
    ids = torch.tensor([tiny_tokenizer.encode("a fox fox red")])
    found = conditioner.encode(["a fur red"])
    with torch.inference_mode():
        states = []
        for encoder, role in ((tiny_encoder, "text_encoder"), (second, "text_encoder_2")):
            tokens = encoder.text_model.embeddings.token_embedding(ids)
            tokens[0, 2:4] = FUR[role]
            states.append(encoder(ids, tokens))
    assert torch.equal(found.context, torch.cat([state.hidden_states[-2] for state in states], dim=2))
    assert found.pooled is not None
    assert states[1].text_embeds is not None
    assert torch.equal(found.pooled, states[1].text_embeds)


def test_half_an_embedding_is_told(conditioner: SDXLConditioner) -> None:
    assert "no vectors for the model's text_encoder_2" in conditioner.report("half fox").sentences()[0]
    assert torch.equal(conditioner.encode(["fox"]).context[:, :2], conditioner.encode(["fox half"]).context[:, :2])
    with pytest.raises(RequestError, match="text_encoder_2"):
        conditioner.encode(["embedding:half"])


def test_each_encoder_restores_its_own_mean(conditioner: SDXLConditioner) -> None:
    weighted, plain = conditioner.encode(["a (fox:1.7)"]), conditioner.encode(["a fox"])
    for part in (slice(None, 32), slice(32, None)):
        assert torch.allclose(weighted.context[..., part].mean(), plain.context[..., part].mean(), rtol=1e-3)
    assert weighted.pooled is not None
    assert plain.pooled is not None
    assert torch.equal(weighted.pooled, plain.pooled)


def test_clip_skip_stops_at_the_shallower_encoder(conditioner: SDXLConditioner) -> None:
    with pytest.raises(RequestError, match="clip_skip=3 is more than the 2 layers of the model's text_encoder"):
        conditioner.encode(["a fox"], TextOptions(clip_skip=3))


def test_the_report_and_the_table_are_those_of_one_tokenizer(conditioner: SDXLConditioner) -> None:
    assert conditioner.report("a (fur:1.2) fox").weights == (("fur", 1.2),)
    assert [row.text for row in conditioner.table("a fur") if row.role == "embedding"] == ["fur × 2"]
    assert conditioner.length("a fox " * 15) == 48


def test_the_projection_is_needed(tiny_tokenizer: ClipTokenizer, tiny_encoder: CLIPTextModel) -> None:
    with pytest.raises(ValueError, match="text_projection"):
        SDXLConditioner(
            tokenizer=None, text_encoder=None, tokenizer_2=tiny_tokenizer, text_encoder_2=tiny_encoder,
            zero_negative=False,
        )  # fmt: skip
