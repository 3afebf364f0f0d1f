"""Prompts to embeddings, and the account of every word."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import wordbrush
from wordbrush.conditioning.text import TextConditioner


@pytest.fixture(scope="module")
def conditioner(tiny_v_folder: Path) -> TextConditioner:
    return wordbrush.load(tiny_v_folder, dtype="float32").conditioner


def test_a_prompt_is_encoded_the_same_beside_any_other(conditioner: TextConditioner) -> None:
    together = conditioner.encode(["a fox", "three cats on a red car", ""])
    assert together.shape == (3, 24, 32)
    for row, prompt in zip(together, ["a fox", "three cats on a red car", ""], strict=True):
        assert torch.equal(conditioner.encode([prompt])[0], row)


def test_known_words_raise_no_note(conditioner: TextConditioner) -> None:
    report = conditioner.report("A fox, on a BLUE background! It's red.")
    assert (report.cut, report.unseen, report.sentences()) == ((), (), [])


def test_words_never_seen_are_named_once(conditioner: TextConditioner) -> None:
    report = conditioner.report("a zebra a zebra 🦊 狐")
    assert report.unseen == ("zebra", "🦊", "狐")
    assert "'zebra'" in report.sentences()[0]
    assert "'🦊'" in report.sentences()[0]


def test_a_model_that_does_not_say_its_words_reports_none(conditioner: TextConditioner) -> None:
    silent = TextConditioner(conditioner.tokenizer, conditioner.encoder)
    assert silent.report("zebra").unseen == ()
    assert {row.seen for row in silent.table("zebra")} == {None}


def test_a_word_with_a_hyphen_makes_its_parts_known(conditioner: TextConditioner) -> None:
    words = frozenset({"a", "t-shirt", "jack-o-lantern"})
    taught = TextConditioner(conditioner.tokenizer, conditioner.encoder, known_words=words)
    assert taught.report("a T-shirt, a jack-o-lantern").unseen == ()
    assert taught.report("a u-shirt").unseen == ("u",)


def test_words_past_the_limit_are_named(conditioner: TextConditioner) -> None:
    report = conditioner.report("a fox " * 11 + "red car" + " cats" * 5000)
    assert report.limit == 22 < 5000 < report.pieces
    assert report.cut[:2] == ("red", "car")
    sentence = report.sentences()[0]
    assert str(report.pieces) in sentence
    assert len(sentence) < 300


def test_the_limit_itself_is_no_cut(conditioner: TextConditioner) -> None:
    assert conditioner.report("a fox " * 11).cut == ()
    assert conditioner.report("a fox " * 11 + "a").cut == ("a",)


def test_the_table_is_the_sequence_that_the_encoder_reads(conditioner: TextConditioner) -> None:
    for prompt in ("", "a zebra 🦊", "a fox " * 20):
        rows = conditioner.table(prompt)
        read = [row for row in rows if row.position is not None]
        assert [row.position for row in read] == list(range(len(read)))
        ids = [row.id for row in read]
        assert ids == conditioner.tokenizer.encode(prompt)[: len(ids)]
        assert {row.role for row in rows if row.position is None} <= {"cut"}
    assert next(row.word for row in conditioner.table("a zebra") if row.seen is False) == "zebra"


def test_special_tokens_typed_into_a_prompt_do_no_harm(conditioner: TextConditioner) -> None:
    report = conditioner.report("a <|endoftext|> fox")
    assert report.cut == ()
    assert conditioner.encode(["a <|endoftext|> fox"]).isfinite().all()
