"""Textual inversion: how a text names an embedding, and what the encoder then reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
import torch
from torch import Tensor

from wordbrush.conditioning.text import TextConditioner
from wordbrush.conditioning.tokenizer import ClipTokenizer
from wordbrush.errors import RequestError
from wordbrush.networks.clip import CLIPTextModel

WIDTH = 32


def vectors(count: int, seed: int = 0, width: int = WIDTH) -> dict[str, Tensor]:
    return {"text_encoder": torch.randn(count, width, generator=torch.Generator().manual_seed(seed))}


EMBEDDINGS = {
    "bad-hands": vectors(3),
    "bad": vectors(1, seed=1),
    "Style_1.5": vectors(2, seed=2),
    "wide": vectors(1, width=40),
    "long": vectors(30),
    "other": {"text_encoder": vectors(1)["text_encoder"], "text_encoder_2": torch.zeros(1, 8)},
}


@pytest.fixture(scope="module")
def conditioner(tiny_tokenizer: ClipTokenizer, tiny_encoder: CLIPTextModel) -> TextConditioner:
    return TextConditioner(tiny_tokenizer, tiny_encoder, known_words=frozenset({"fox", "red"}), embeddings=EMBEDDINGS)


def named(conditioner: TextConditioner, text: str) -> list[str]:
    return [row.text for row in conditioner.table(text) if row.role == "embedding"]


def test_vectors_stand_where_the_name_stood(conditioner: TextConditioner) -> None:
    encoder, tokenizer = conditioner.encoder, conditioner.tokenizer
    ids = torch.tensor([tokenizer.encode("a fox fox fox red")])  # any three tokens that are one piece each
    assert ids[0, 2] == ids[0, 4]
    with torch.inference_mode():
        tokens = encoder.text_model.embeddings.token_embedding(ids)
        tokens[0, 2:5] = EMBEDDINGS["bad-hands"]["text_encoder"]
        expected = encoder(ids, tokens).last_hidden_state
    assert torch.equal(conditioner.encode(["a bad-hands red"]).context, expected)
    assert torch.equal(conditioner.encode(["a embedding:bad-hands red"]).context, expected)
    assert not torch.equal(conditioner.encode(["a fox fox fox red"]).context, expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a bad-hands red", ["bad-hands × 3"]),
        ("a BAD-Hands, red", ["bad-hands × 3"]),
        ("a bad fox", ["bad × 1"]),
        ("a bad hand", ["bad × 1"]),
        ("abad fox badly", []),
        ("style_1.5 (Style_1.5:1.2)", ["Style_1.5 × 2"] * 2),
        ("embedding:bad-hands, embedding:bad red", ["bad-hands × 3", "bad × 1"]),
        ("embedding:Style_1.5.safetensors, red", ["Style_1.5 × 2"]),
        ("(embedding:bad-hands:1.2)", ["bad-hands × 3"]),
    ],
)
def test_names(conditioner: TextConditioner, text: str, expected: list[str]) -> None:
    assert named(conditioner, text) == expected


def test_an_embedding_counts_its_vectors_and_stays_whole(conditioner: TextConditioner) -> None:
    report = conditioner.report("fox " * 20 + "(bad-hands:1.3) red")
    assert (report.pieces, report.chunks) == (24, 2)
    assert report.embeddings == ("bad-hands",)
    assert report.weights == (("bad-hands", 1.3),)
    assert report.unseen == ()
    rows = [row for row in conditioner.table("fox " * 20 + "bad-hands red") if row.role == "embedding"]
    assert [(row.position, row.id, row.chunk) for row in rows] == [(25, None, 1)]


def test_an_embedding_is_weighted_like_words(conditioner: TextConditioner) -> None:
    assert not torch.equal(conditioner.encode(["(bad:1.5)"]).context, conditioner.encode(["bad"]).context)


@pytest.mark.parametrize(("name", "why"), [("wide", r"\(1, 40\)"), ("long", "30 vectors"), ("other", "two text")])
def test_one_for_another_model_is_read_as_text_and_told(conditioner: TextConditioner, name: str, why: str) -> None:
    report = conditioner.report(f"a {name} red")
    assert report.embeddings == ()
    with pytest.raises(RequestError, match=f"embedding:{name} cannot be used.*{why}"):
        conditioner.encode([f"embedding:{name}"])
    assert any(f"{name!r} is read as plain text" in sentence for sentence in report.sentences())


def test_an_embedding_that_is_asked_for_must_be_there(conditioner: TextConditioner) -> None:
    with pytest.raises(RequestError, match=r"no embedding 'nothing'; known: Style_1\.5, bad"):
        conditioner.encode(["a embedding:nothing, red"])
    with pytest.raises(RequestError, match="no embedding 'bad-hands-2'"):
        conditioner.encode(["embedding:bad-hands-2"])


def test_only_what_is_named_is_loaded(conditioner: TextConditioner) -> None:
    asked = []

    class Lazy(Mapping[str, Mapping[str, Tensor]]):
        def __getitem__(self, name: str) -> Mapping[str, Tensor]:
            asked.append(name)
            return EMBEDDINGS[name]

        def __iter__(self) -> Iterator[str]:
            return iter(EMBEDDINGS)

        def __len__(self) -> int:
            return len(EMBEDDINGS)

    lazy = TextConditioner(conditioner.tokenizer, conditioner.encoder, embeddings=Lazy())
    lazy.encode(["a fox"])
    assert asked == []
    lazy.encode(["a bad-hands fox", "bad-hands"])
    assert asked == ["bad-hands"]
