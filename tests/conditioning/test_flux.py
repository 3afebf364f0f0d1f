"""FLUX's two encoders: what is cut, reported and refused. Parity is in tests/parity."""

from __future__ import annotations

import pytest
import torch
from tests.conditioning import spiece

from wordbrush.conditioning.conditioning import TextOptions
from wordbrush.conditioning.flux import FluxConditioner
from wordbrush.conditioning.t5_tokenizer import T5Tokenizer
from wordbrush.conditioning.tokenizer import ClipTokenizer
from wordbrush.errors import RequestError
from wordbrush.networks.clip import CLIPTextModel
from wordbrush.networks.t5 import T5Config, T5Encoder

LENGTH = 12


@pytest.fixture(scope="module")
def conditioner(
    tiny_tokenizer: ClipTokenizer, tiny_encoder: CLIPTextModel, tmp_path_factory: pytest.TempPathFactory
) -> FluxConditioner:
    folder = tmp_path_factory.mktemp("t5")
    (folder / "spiece.model").write_bytes(spiece.model(rules=spiece.compile_rules(spiece.RULES)))
    words = T5Tokenizer.from_folder(folder)
    t5 = T5Encoder(T5Config(vocab_size=len(words.vocab), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)).eval()
    t5.initialise(torch.Generator().manual_seed(2))
    return FluxConditioner(
        tokenizer=tiny_tokenizer, text_encoder=tiny_encoder, tokenizer_2=words, text_encoder_2=t5, max_length=LENGTH
    )


def test_every_context_has_the_same_length(conditioner: FluxConditioner) -> None:
    found = conditioner.encode(["a fox", "the blue cats " * 20])
    assert found.context.shape == (2, LENGTH, 16)
    assert conditioner.length("the blue cats " * 20) == LENGTH
    assert torch.equal(found.context[:1], conditioner.encode(["a fox"]).context)
    assert torch.equal(conditioner.encode_negative(["a fox"]).context, found.context[:1])


def test_words_past_the_limit_are_named(conditioner: FluxConditioner) -> None:
    report = conditioner.report("the fox " * 5 + "on (blue:1.2) cats")
    assert (report.pieces, report.limit, report.cut) == (14, 11, ("blue", "cats"))
    assert report.weights == (("blue", 1.2),)
    assert "not read: 'blue', 'cats'" in report.sentences()[0]
    assert conditioner.report("the fox " * 5 + "on").cut == ()


def test_the_table_is_the_sequence_that_t5_reads(conditioner: FluxConditioner) -> None:
    rows = conditioner.table("the fox")
    assert [(row.position, row.role) for row in rows] == [(0, "piece"), (1, "piece"), (2, "end"), (3, "padding")]
    assert rows[-1].text == f"<pad> × {LENGTH - 3}"
    rows = conditioner.table("the fox " * 5 + "on blue")
    assert [row.role for row in rows] == ["piece"] * 11 + ["end", "cut"]
    assert [row.id for row in rows if row.position is not None] == conditioner.tokenizer.encode(
        "the fox " * 5 + "on blue", LENGTH
    )


def test_breaks_only_part_words(conditioner: FluxConditioner) -> None:
    found, plain = conditioner.encode(["the fox BREAK on blue"]), conditioner.encode(["the fox on blue"])
    assert torch.equal(found.context, plain.context)
    assert found.pooled is not None
    assert plain.pooled is not None
    assert torch.equal(found.pooled, plain.pooled)


def test_no_layer_can_be_skipped(conditioner: FluxConditioner) -> None:
    assert torch.equal(
        conditioner.encode(["a fox"], TextOptions(clip_skip=1)).context, conditioner.encode(["a fox"]).context
    )
    with pytest.raises(RequestError, match="clip_skip=2 means nothing"):
        conditioner.encode(["a fox"], TextOptions(clip_skip=2))


def test_emphasis_can_be_ignored_or_off(conditioner: FluxConditioner) -> None:
    weighted = conditioner.encode(["the (fox:2)"], TextOptions(emphasis="ignore"))
    assert torch.equal(weighted.context, conditioner.encode(["the fox"]).context)
    assert conditioner.report("(fox)", TextOptions(emphasis="none")).weights == ()
    assert conditioner.report("(fox)", TextOptions(emphasis="none")).pieces > conditioner.report("(fox)").pieces
