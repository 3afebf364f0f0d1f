"""The language of alternatives and wildcards: what is drawn, how often, and what stays as it is."""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from wordbrush.conditioning.alternatives import drawn, draws, is_drawn, split_outside
from wordbrush.conditioning.wildcards import Wildcards
from wordbrush.errors import RequestError


@pytest.fixture
def wildcards(tmp_path: Path) -> Wildcards:
    mine, shipped = tmp_path / "mine", tmp_path / "shipped"
    (mine / "animals").mkdir(parents=True)
    shipped.mkdir()
    (mine / "animals" / "farm.txt").write_text("cow\npig\n")
    (mine / "animals" / "wild.txt").write_text("# not tame\n\nwolf\n")
    (mine / "colour.txt").write_text("\ufeff3::red\nblue\n")
    (mine / "scene.txt").write_text("a __colour__ {__animals/wild__|__animals/farm__}\n")
    (mine / "loop.txt").write_text("again __loop__\n")
    (mine / "empty.txt").write_text("# nothing\n")
    (shipped / "colour.txt").write_text("never\n")
    (shipped / "kept.txt").write_text("kept\n")
    return Wildcards((mine, shipped))


def outcomes(text: str, wildcards: Wildcards, times: int = 400) -> Counter[str]:
    return Counter(drawn(text, wildcards, random.Random(seed)) for seed in range(times))


@pytest.mark.parametrize(
    "text",
    ["a fox", "a [cat|dog:0.5] (red:1.2)", "<lora:fur:0.8> a_b _c_ __ ___", "3::a|b", "[a:b:3] 2$$x", ""],
)
def test_other_syntax_stays_as_it_is(text: str, wildcards: Wildcards) -> None:
    assert drawn(text, wildcards, random.Random(0)) == text
    assert not is_drawn(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"\{a\|b\} {c\|d}", "{a|b} c|d"),
        (r"\__colour__", "__colour__"),
        (r"\(a\) \\ {x}", r"\(a\) \\ x"),
        ("{[a|b]}", "[a|b]"),
        ("{}", ""),
        ("{5$$a}", "a"),
        ("{0$$a|b}", ""),
        ("{0::a|b}", "b"),
        ("__kept__", "kept"),
    ],
)
def test_escapes_and_certain_outcomes(text: str, found: str, wildcards: Wildcards) -> None:
    assert set(outcomes(text, wildcards, 20)) == {found}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{a|b|c} x", {"a x", "b x", "c x"}),
        ("{a|{b|c}}", {"a", "b", "c"}),
        ("{very |}nice", {"very nice", "nice"}),
        ("{2$$a|b|c}", {"a, b", "b, a", "a, c", "c, a", "b, c", "c, b"}),
        ("{2$$ and $$a|b}", {"a and b", "b and a"}),
        ("{1-2$$+$$a|b}", {"a", "b", "a+b", "b+a"}),
        ("{-2$$a|b}", {"a", "b", "a, b", "b, a"}),
        ("{2-$$a|b}", {"a, b", "b, a"}),
        ("{[a|b]|c}", {"[a|b]", "c"}),
        ("{(a:1.2)|<lora:x:1>}", {"(a:1.2)", "<lora:x:1>"}),
        ("{2$$__animals/farm__}", {"cow, pig", "pig, cow"}),
        ("__animals/*__", {"cow", "pig", "wolf"}),
        ("__colour__", {"red", "blue"}),
        ("__scene__", {f"a {colour} {animal}" for colour in ("red", "blue") for animal in ("wolf", "cow", "pig")}),
    ],
)
def test_every_outcome_comes_and_no_other(text: str, found: set[str], wildcards: Wildcards) -> None:
    assert set(outcomes(text, wildcards)) == found


def test_weights(wildcards: Wildcards) -> None:
    found = outcomes("{3::a|b|0.5::c}", wildcards, 4500)
    assert abs(found["a"] / 3000 - 1) < 0.1
    assert abs(found["b"] / 1000 - 1) < 0.15
    assert abs(found["c"] / 500 - 1) < 0.2
    assert abs(outcomes("__colour__", wildcards, 2000)["red"] / 1500 - 1) < 0.1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{a|b", r"without \}"),
        ("a} b", r"without \{"),
        ("${x=a} b", "variables"),
        ("__colours__", "did you mean __colour__"),
        ("__loop__", "into themselves"),
        ("__empty__", "no text"),
    ],
)
def test_what_cannot_be_drawn(text: str, words: str, wildcards: Wildcards) -> None:
    with pytest.raises(RequestError, match=words):
        drawn(text, wildcards, random.Random(0))


def test_draws_that_multiply_are_stopped(tmp_path: Path) -> None:
    (tmp_path / "w0.txt").write_text("x\n")
    for number in range(1, 20):
        (tmp_path / f"w{number}.txt").write_text(f"__w{number - 1}__ __w{number - 1}__\n")
    with pytest.raises(RequestError, match="10000 times"):
        drawn("__w19__", Wildcards((tmp_path,)), random.Random(0))


def test_bars_outside_brackets() -> None:
    assert split_outside(r"a|[b|c]|{d|e}|f\|g") == ["a", "[b|c]", "{d|e}", r"f\|g"]
    assert split_outside("a [b|c") == ["a [b", "c"]
    assert draws("{a|b}")
    assert not draws(r"\{a\}")


def test_shipped_wildcards_can_all_be_drawn() -> None:
    shipped = Wildcards.default()
    assert {"animal", "food", "colour", "background"} <= set(shipped.files)
    for name in shipped.files:
        for line in shipped.texts(name):
            assert drawn(line, shipped, random.Random(1)).strip()


@pytest.mark.parametrize("inside", [" " * 90_000 + "x", "1" * 90_000, "1" * 90_000 + "::a|b", " " * 9000 + "1 - $"])
def test_a_prompt_made_to_keep_the_reader_busy_does_not(inside: str, wildcards: Wildcards) -> None:
    began = time.process_time()
    with contextlib.suppress(RequestError):
        drawn(f"{{{inside}}}", wildcards, random.Random(0))
    assert time.process_time() - began < 2


def test_a_weight_of_thousands_of_digits_is_refused(wildcards: Wildcards) -> None:
    with pytest.raises(RequestError, match="weight"):
        drawn("{" + "9" * 400 + "::a|b}", wildcards, random.Random(0))
