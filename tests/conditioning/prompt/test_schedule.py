"""Prompts that change on the way: the schedules that A1111 is known to give, and odd brackets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wordbrush.conditioning.prompt.schedule import Template

LANDSCAPE = (
    "fantasy landscape with a [mountain:lake:0.25] and [an oak:a christmas tree:0.75][ in foreground::0.6]"
    "[: in background:0.25] [shoddy:masterful:0.5]"
)


def segments(prompt: str, steps: int = 10) -> list[tuple[int, str]]:
    return [(segment.end, segment.text) for segment in Template.parse(prompt).segments(steps)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("test", [(10, "test")]),
        ("[cat:dog:0.5]", [(5, "cat"), (10, "dog")]),
        ("[cat:dog:3]", [(3, "cat"), (10, "dog")]),
        ("[cat:dog:1.0]", [(10, "cat")]),
        ("[cat:dog:1]", [(1, "cat"), (10, "dog")]),
        ("[cat:dog:0]", [(10, "dog")]),
        ("[cat:dog:-2]", [(10, "dog")]),
        ("[cat:dog:99]", [(10, "cat")]),
        ("a [cat::4]", [(4, "a cat"), (10, "a ")]),
        ("a [:cat:4]", [(4, "a "), (10, "a cat")]),
        ("a [b:3]", [(3, "a "), (10, "a b")]),
        ("a [b: 3]", [(3, "a "), (10, "a b")]),
        ("a [[[b]]:2]", [(2, "a "), (10, "a [[b]]")]),
        ("[(a:2):3]", [(3, ""), (10, "(a:2)")]),
        ("a [b : c : 1] d", [(1, "a b  d"), (10, "a  c  d")]),
        ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
        ("a [b:.5] c", [(5, "a  c"), (10, "a b c")]),
        ("a [unbalanced", [(10, "a [unbalanced")]),
        ("a [not a schedule:b]", [(10, "a [not a schedule:b]")]),
        ("[a:b:c:3]", [(10, "[a:b:c:3]")]),
        ("((a][:b:c [d:3]", [(3, "((a][:b:c "), (10, "((a][:b:c d")]),
        ("[(a:b:3]", [(10, "[(a:b:3]")]),
        ("[a) b:c:3]", [(10, "[a) b:c:3]")]),
        (r"[a\:b:c\]:3]", [(3, r"a\:b"), (10, r"c\]")]),
        ("[embedding:fur:3]", [(3, ""), (10, "embedding:fur")]),
        ("16:9 | 4:3", [(10, "16:9 | 4:3")]),
    ],
)
def test_known_schedules(prompt: str, expected: list[tuple[int, str]]) -> None:
    assert segments(prompt) == expected


def test_the_landscape_of_the_documentation() -> None:
    assert segments(LANDSCAPE, 100) == [
        (25, "fantasy landscape with a mountain and an oak in foreground shoddy"),
        (50, "fantasy landscape with a lake and an oak in foreground in background shoddy"),
        (60, "fantasy landscape with a lake and an oak in foreground in background masterful"),
        (75, "fantasy landscape with a lake and an oak in background masterful"),
        (100, "fantasy landscape with a lake and a christmas tree in background masterful"),
    ]


def test_alternation() -> None:
    assert segments("[a|b]", 4) == [(1, "a"), (2, "b"), (3, "a"), (4, "b")]
    assert [text for _, text in segments("[a|(b:1.1)|c]", 4)] == ["a", "(b:1.1)", "c", "a"]
    assert [text for _, text in segments("[fe|]male", 3)] == ["female", "male", "female"]
    assert [text for _, text in segments("[fe|||]male", 6)] == ["female", "male", "male", "male", "female", "male"]
    assert [text for _, text in segments("[a|[b:c:3]]", 6)] == ["a", "b", "a", "c", "a", "c"]
    assert [text for _, text in segments("[[a|b]:c:3]", 4)] == ["a", "b", "a", "c"]


def test_at_counts_from_zero() -> None:
    template = Template.parse("[cat:dog:0.5]")
    assert [template.at(step, 10) for step in range(10)] == ["cat"] * 5 + ["dog"] * 5
    assert not template.constant
    assert Template.parse("a (fox:1.2) [b]").constant


def test_schedules_may_be_nested_deeply_without_harm() -> None:
    for depth in (10, 64, 5000):
        prompt = "[a:" * depth + "b" + ":2]" * depth
        assert "b" in Template.parse(prompt).at(9, 10)
    assert Template.parse("[[" * 20_000 + "]" * 30_000).constant


@given(st.text(alphabet=r"ab|:[]()3.\ ", max_size=60), st.integers(1, 12))
def test_segments_and_steps_agree(prompt: str, steps: int) -> None:
    template = Template.parse(prompt)
    found = template.segments(steps)
    spread = [next(segment.text for segment in found if step < segment.end) for step in range(steps)]
    assert spread == [template.at(step, steps) for step in range(steps)]
