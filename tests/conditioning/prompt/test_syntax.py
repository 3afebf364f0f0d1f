"""Emphasis and breaks: the parses that A1111 is known to give, and what becomes of odd brackets."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wordbrush.conditioning.prompt.syntax import literal, parse
from wordbrush.errors import RequestError

Runs = list[tuple[str, float]]


def sections(text: str) -> list[Runs]:
    return [[(run.text, run.weight) for run in section] for section in parse(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("a ((word))", [("a ", 1.0), ("word", 1.1 * 1.1)]),
        ("a [word]", [("a ", 1.0), ("word", 1 / 1.1)]),
        ("a (word:1.5)", [("a ", 1.0), ("word", 1.5)]),
        ("a (word: 1.5 )", [("a ", 1.0), ("word", 1.5)]),
        ("a (word:.5)", [("a ", 1.0), ("word", 0.5)]),
        ("a (word:-1)", [("a ", 1.0), ("word", -1.0)]),
        ("(a (b:0.5) c)", [("a ", 1.1), ("b", 0.5 * 1.1), (" c", 1.1)]),
        ("(a (b:0.5) c:2)", [("a ", 2.0), ("b", 1.0), (" c", 2.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        ("un)balanced]", [("un)balanced]", 1.0)]),
        ("(a [b) c]", [("a ", 1.1), ("b", 1.1 * (1 / 1.1)), (" c", 1 / 1.1)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        (r"a\\b c\d", [(r"a\b cd", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        ("16:9 (at 4:3:1.2)", [("16:9 ", 1.0), ("at 4:3", 1.2)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        ("()", []),
        ("", []),
    ],
)
def test_known_parses(text: str, expected: Runs) -> None:
    assert sections(text) == [expected]


def test_the_known_parse_of_a_long_example() -> None:
    assert sections("a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).") == [
        [
            ("a ", 1.0),
            ("house", 1.5730000000000004),
            (" ", 1.1),
            ("on", 1.0),
            (" a ", 1.1),
            ("hill", 0.55),
            (", sun, ", 1.1),
            ("sky", 1.4641000000000006),
            (".", 1.1),
        ]
    ]


def test_breaks() -> None:
    assert sections("a fox BREAK a hen") == [[("a fox", 1.0)], [("a hen", 1.0)]]
    assert sections("BREAK a\nBREAK\n") == [[], [("a", 1.0)], []]
    assert sections("a BREAKFAST, break") == [[("a BREAKFAST, break", 1.0)]]
    assert sections("a (b BREAK c:1.5) d") == [[("a ", 1.0), ("b", 1.5)], [("c", 1.5), (" d", 1.0)]]


@pytest.mark.parametrize("text", ["(a:" + "1" * 50_000, "a" + " " * 50_000 + "b", r"\a" * 50_000, "a:" * 50_000])
def test_no_text_takes_long(text: str) -> None:
    """A tenth of a second; half a minute for a pattern that tries every end of every run of digits or spaces."""
    started = time.process_time()
    parse(text)
    assert time.process_time() - started < 5


def test_literal_text_keeps_every_sign() -> None:
    ((run,),) = literal(r"(a:1.2) [b] BREAK \(")
    assert (run.text, run.weight) == (r"(a:1.2) [b] BREAK \(", 1.0)


def test_weights_that_no_encoder_can_carry_are_refused() -> None:
    with pytest.raises(RequestError, match=r"'fox' is 1e\+04"):
        parse("a (fox:10000)")
    with pytest.raises(RequestError, match="within ±1000"):
        parse("(" * 100 + "fox")
    with pytest.raises(RequestError, match="more than 200 deep"):
        parse("[" * 50_000)


@given(st.text(alphabet="ab :1.5,\n狐()", max_size=40).filter(lambda text: not set(text) & set("()")))
def test_text_without_brackets_is_one_run(text: str) -> None:
    assert sections(text) == [[(text, 1.0)] if text else []]


@given(st.text(alphabet=r"ab()[]:1.2\ ", max_size=60))
def test_no_letter_is_lost(text: str) -> None:
    found = "".join(run.text for section in parse(text) for run in section)
    assert [letter for letter in found if letter in "ab"] == [letter for letter in text if letter in "ab"]
