"""AND, LoRA tags, and what holds at each step."""

from __future__ import annotations

import pytest

from wordbrush.conditioning.prompt.program import PromptProgram, WeightedText
from wordbrush.conditioning.prompt.tags import LoraTag
from wordbrush.errors import RequestError


def parts(prompt: str) -> list[tuple[str, float]]:
    return [(part.text, part.weight) for part in PromptProgram.parse(prompt).at(0, 10)]


def test_and_with_weights() -> None:
    assert parts("a cat") == [("a cat", 1.0)]
    assert parts("a cat AND a dog :1.2") == [("a cat ", 1.0), (" a dog", 1.2)]
    assert parts("a cat :1.2 AND a dog AND a penguin :-2.2") == [("a cat", 1.2), (" a dog ", 1.0), (" a penguin", -2.2)]
    assert parts("a (cat:1.3) AND [dog]:.5") == [("a (cat:1.3) ", 1.0), (" [dog]", 0.5)]
    assert parts("BANDS and HANDY") == [("BANDS and HANDY", 1.0)]


def test_a_number_at_the_end_without_and_is_text() -> None:
    assert parts("a picture in 16:9") == [("a picture in 16:9", 1.0)]


def test_parts_change_on_the_way() -> None:
    program = PromptProgram.parse("a [cat:dog:2] AND [red|blue] :0.5")
    assert program.weights == (1.0, 0.5)
    assert not program.constant
    assert [[part.text.strip() for part in program.at(step, 4)] for step in range(4)] == [
        ["a cat", "red"], ["a cat", "blue"], ["a dog", "red"], ["a dog", "blue"],
    ]  # fmt: skip
    assert [text.strip() for text in program.texts(4)] == ["a cat", "a dog", "red", "blue"]
    assert all(part.text in program.texts(4) for step in range(4) for part in program.at(step, 4))


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("<lora:fur>", LoraTag(name="fur", text=1.0, unet=1.0)),
        ("<lora:fur:0.8>", LoraTag(name="fur", text=0.8, unet=0.8)),
        ("<lora:fur:0.8:0.5>", LoraTag(name="fur", text=0.8, unet=0.5)),
        ("<lora:fur:te=0.5>", LoraTag(name="fur", text=0.5, unet=0.5)),
        ("<lora:fur:unet=0.5>", LoraTag(name="fur", text=1.0, unet=0.5)),
        ("<lora:my fur v2.1: -1 :unet=0>", LoraTag(name="my fur v2.1", text=-1.0, unet=0.0)),
    ],
)
def test_lora_tags(tag: str, expected: LoraTag) -> None:
    program = PromptProgram.parse(f"a fox {tag}, red")
    assert program.loras == (expected,)
    assert program.texts(5) == ("a fox , red",)
    assert program.unknown == ()


@pytest.mark.parametrize(
    ("tag", "said"),
    [
        ("<lora:fur:much>", "'much'"),
        ("<lora:fur:nan>", "'nan'"),
        ("<lora:fur:1:1:8>", "argument '8'"),
        ("<lora:fur:dyn=8>", "argument 'dyn=8'"),
        ("<lora:fur:te=1:te=2>", "argument 'te=2'"),
        ("<lora: :1>", "names no LoRA"),
    ],
)
def test_lora_tags_that_cannot_be_read_are_refused(tag: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        PromptProgram.parse(f"a fox {tag}")


def test_other_tags_are_told() -> None:
    program = PromptProgram.parse("a <hypernet:old:1> fox <3 <lora:fur:1>")
    assert program.unknown == ("<hypernet:old:1>",)
    assert "<hypernet:old:1>" in program.sentences()[0]
    assert program.texts(1) == ("a  fox <3 ",)


def test_negative_prompts_have_schedules_but_no_and_and_no_tags() -> None:
    program = PromptProgram.parse_negative("[bad:worse:1] AND ugly :2 <lora:fur:1>")
    assert program.at(0, 2) == (WeightedText("bad AND ugly :2 ", 1.0),)
    assert program.at(1, 2) == (WeightedText("worse AND ugly :2 ", 1.0),)
    assert program.unknown == ("<lora:fur:1>",)
