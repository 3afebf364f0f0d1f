"""Prompts to embeddings, and what becomes of every word."""

from __future__ import annotations

import pytest
import torch

from wordbrush.conditioning.clip import emphasised
from wordbrush.conditioning.conditioning import TextOptions
from wordbrush.conditioning.text import TextConditioner
from wordbrush.errors import RequestError

WIDTH = 32


def test_a_prompt_is_encoded_the_same_beside_any_other(conditioner: TextConditioner) -> None:
    prompts = ["a fox", "three (cats:1.2) on a red car", ""]
    together = conditioner.encode(prompts).context
    assert together.shape == (3, 24, WIDTH)
    for row, prompt in zip(together, prompts, strict=True):
        assert torch.equal(conditioner.encode([prompt]).context[0], row)


def test_beside_a_longer_prompt_it_is_padded_with_empty_chunks(conditioner: TextConditioner) -> None:
    long = "a fox " * 15
    together = conditioner.encode(["a fox", long]).context
    assert together.shape == (2, 48, WIDTH)
    assert torch.equal(together[0, :24], conditioner.encode(["a fox"]).context[0])
    assert torch.equal(together[0, 24:], conditioner.encode([""]).context[0])
    assert torch.equal(together[1], conditioner.encode([long]).context[0])
    assert torch.equal(conditioner.encode(["a fox"], length=48).context[0], together[0])
    assert [conditioner.length(text) for text in ("a fox", long, "")] == [24, 48, 24]
    assert torch.equal(conditioner.encode_negative(["a fox"], length=48).context[0], together[0])


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


def test_a_long_prompt_is_read_in_chunks(conditioner: TextConditioner) -> None:
    report = conditioner.report("a fox " * 11 + "red car" + " cats" * 5000)
    assert report.limit == 22
    assert report.chunks == -(-report.pieces // 22) > 5000 / 22
    assert (report.cut, report.sentences()) == ((), [])
    assert conditioner.report("a fox " * 11).chunks == 1
    assert conditioner.report("a fox " * 11 + "a").chunks == 2


def test_every_chunk_is_what_its_words_give_alone(conditioner: TextConditioner) -> None:
    words = ["fox " * 22, "red " * 22, "blue"]
    whole = conditioner.encode(["".join(words)]).context[0]
    assert torch.equal(whole, torch.cat([conditioner.encode([part]).context[0] for part in words]))
    assert torch.equal(conditioner.encode(["fox BREAK red"]).context[0, 24:], conditioner.encode(["red"]).context[0])


def test_a_full_chunk_is_cut_at_a_comma_that_is_near(conditioner: TextConditioner) -> None:
    def ends(backtrack: int) -> list[int]:
        rows = conditioner.table("a fox " * 8 + "a, " + "red " * 9, TextOptions(comma_backtrack=backtrack))
        return [row.position or 0 for row in rows if row.role == "end"]

    assert ends(20) == [19, 24 + 10]
    assert ends(4) == ends(0) == [23, 24 + 6]


def test_the_table_is_the_sequence_that_the_encoder_reads(conditioner: TextConditioner) -> None:
    for prompt in ("", "a zebra 🦊", "a fox " * 11):
        rows = conditioner.table(prompt)
        assert [row.position for row in rows] == list(range(len(rows)))
        assert [row.id for row in rows] == conditioner.tokenizer.encode(prompt)[: len(rows)]
    assert next(row.word for row in conditioner.table("a zebra") if row.seen is False) == "zebra"


def test_the_table_of_a_long_prompt_has_every_chunk(conditioner: TextConditioner) -> None:
    rows = conditioner.table("(fox:1.5) " * 22 + "red")
    assert [row.position for row in rows if row.role == "start"] == [0, 24]
    assert [(row.chunk, row.word, row.weight) for row in rows if row.role == "piece"] == [
        *[(0, "fox", 1.5)] * 22, (1, "red", 1.0),
    ]  # fmt: skip
    assert rows[-1].text.endswith("× 21")


def test_the_report_tells_weights(conditioner: TextConditioner) -> None:
    report = conditioner.report("a (fox:1.5) on a [blue] background (fox)")
    assert report.weights == (("fox", 1.5), ("blue", 1 / 1.1), ("fox", 1.1))
    assert report.unseen == ()


def test_weights_move_the_states_of_their_words(conditioner: TextConditioner) -> None:
    plain = conditioner.encode(["a red fox"]).context.double()
    factors = torch.ones(24, dtype=torch.float64)
    factors[2] = 1.5
    moved = plain * factors[None, :, None]
    found = conditioner.encode(["a (red:1.5) fox"], TextOptions(emphasis="no norm")).context
    assert torch.allclose(found.double(), moved, atol=1e-6)
    found = conditioner.encode(["a (red:1.5) fox"]).context
    assert torch.allclose(found.double(), moved * plain.mean() / moved.mean(), rtol=1e-4, atol=1e-5)


def test_emphasis_of_a_case_worked_by_hand() -> None:
    hidden = torch.tensor([[[1.0, 3.0], [2.0, 4.0], [0.0, 2.0]]], dtype=torch.float64)  # mean 2
    multiplied = torch.tensor([[[1.0, 3.0], [4.0, 8.0], [0.0, 2.0]]], dtype=torch.float64)  # mean 3
    assert torch.equal(emphasised(hidden, [1.0, 2.0], restore_mean=False), multiplied)
    assert torch.allclose(emphasised(hidden, [1.0, 2.0], restore_mean=True), multiplied * 2 / 3, rtol=1e-15)
    assert emphasised(hidden, [1.0, 1.0], restore_mean=True) is hidden
    flat = hidden - hidden.mean()
    assert torch.equal(*(emphasised(flat, [1.0, 2.0], restore_mean=restore) for restore in (True, False)))


def test_emphasis_can_be_ignored_or_off(conditioner: TextConditioner) -> None:
    plain = conditioner.encode(["a red fox"]).context
    ignored = conditioner.encode(["a (red:1.5) fox"], TextOptions(emphasis="ignore")).context
    assert torch.equal(conditioner.encode(["a (red:1.0) fox"]).context, plain)
    assert torch.equal(ignored, plain)
    pieces = [row.text for row in conditioner.table("(red:1.5)", TextOptions(emphasis="none")) if row.role == "piece"]
    assert "".join(pieces).replace("</w>", "") == "(red:1.5)"


def test_escaped_brackets_are_text(conditioner: TextConditioner) -> None:
    literal = conditioner.encode(["a (red) fox"], TextOptions(emphasis="none")).context
    assert torch.equal(conditioner.encode([r"a \(red\) fox"]).context, literal)


def test_clip_skip_reads_an_earlier_layer(conditioner: TextConditioner) -> None:
    encoder, ids = conditioner.encoder, torch.tensor([conditioner.tokenizer.encode("a fox")])
    with torch.inference_mode():
        states = encoder(ids)
        earlier = encoder.text_model.final_layer_norm(states.hidden_states[-2])
    assert torch.equal(conditioner.encode(["a fox"], TextOptions(clip_skip=1)).context, states.last_hidden_state)
    assert torch.equal(conditioner.encode(["a fox"], TextOptions(clip_skip=2)).context, earlier)
    with pytest.raises(RequestError, match="clip_skip=3 is more than the 2 layers"):
        conditioner.encode(["a fox"], TextOptions(clip_skip=3))


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(RequestError, match="clip_skip=0"):
        TextOptions(clip_skip=0)
    with pytest.raises(RequestError, match="'loud' is not known"):
        TextOptions(emphasis="loud")
    with pytest.raises(RequestError, match="comma_backtrack=-1"):
        TextOptions(comma_backtrack=-1)


def test_special_tokens_typed_into_a_prompt_do_no_harm(conditioner: TextConditioner) -> None:
    report = conditioner.report("a <|endoftext|> fox")
    assert report.cut == ()
    assert conditioner.encode(["a <|endoftext|> fox"]).context.isfinite().all()
