r"""Emphasis and breaks: one text to sections of weighted runs.

    (a)        weight 1.1       ((a)) 1.21
    (a:1.5)    weight 1.5; weights inside one another multiply
    [a]        weight 1 / 1.1
    \( \) \[ \] \\              the signs themselves; any other backslash is dropped
    BREAK      what follows starts a new chunk

Brackets need not be balanced: one that is never closed acts to the end of the text, one that closes nothing is text,
and round and square brackets are counted apart from each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from wordbrush.errors import RequestError

EMPHASES = ("original", "no norm", "ignore", "none")

STRONGER = 1.1
WEAKER = 1.0 / 1.1

NUMBER = r"[+-]?(?:\d++\.?\d*+|\.\d++)"
"""A number as the language writes it. Nothing is tried again digit by digit, so that no prompt takes long to read."""

_DEEPEST = 200
_HEAVIEST = 1000.0  # 72 brackets; what lies far beyond overflows in the encoder's own precision

_SIGNS = re.compile(
    r"\\(?P<escaped>[()\[\]\\]?)"
    rf"|:\s*(?P<weight>{NUMBER})\s*\)"
    r"|(?P<bracket>[()\[\]])"
    r"|(?P<text>[^\\()\[\]:]+|:)"
)
_BREAK = re.compile(r"(?:(?<!\s)\s++)?+\bBREAK\b\s*")  # looks at spaces only from where they begin


@dataclass(frozen=True)
class Run:
    """Text of one weight."""

    text: str
    weight: float = 1.0


Section = tuple[Run, ...]
"""What stands between two BREAKs."""


@dataclass
class _Item:
    """A run in the making; text None is a BREAK."""

    text: str | None
    weight: float = 1.0


def parse(text: str) -> tuple[Section, ...]:
    """Reads emphasis and breaks. Returns at least one section; a section without words is empty.

    Neighbouring runs of the same weight are one run, so that a text without syntax stays whole.

    Raises:
        RequestError: brackets are more than 200 deep, or a weight is beyond 1000 either way.
    """
    items: list[_Item] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}  # where each open bracket starts among the items
    for match in _SIGNS.finditer(text):
        kind, sign = match.lastgroup, match.group()
        if kind == "bracket" and sign in "([":
            opened[sign].append(len(items))
            if len(opened[sign]) > _DEEPEST:
                raise RequestError(f"the prompt has brackets more than {_DEEPEST} deep; write (text:1.5) for a weight")
        elif kind == "weight" and opened["("]:
            _multiply(items[opened["("].pop() :], float(match.group("weight")))
        elif sign == ")" and opened["("]:
            _multiply(items[opened["("].pop() :], STRONGER)
        elif sign == "]" and opened["["]:
            _multiply(items[opened["["].pop() :], WEAKER)
        elif kind == "escaped":
            items.append(_Item(match.group("escaped")))
        else:
            _append(items, sign)
    for start in opened["("]:
        _multiply(items[start:], STRONGER)
    for start in opened["["]:
        _multiply(items[start:], WEAKER)
    return tuple(_sections(items))


def literal(text: str) -> tuple[Section, ...]:
    """The text as one run of weight 1, whatever signs it has."""
    return ((Run(text),),) if text else ((),)


def _append(items: list[_Item], text: str) -> None:
    for number, part in enumerate(_BREAK.split(text)):
        if number:
            items.append(_Item(None))
        items.append(_Item(part))


def _multiply(items: Iterable[_Item], factor: float) -> None:
    for item in items:
        item.weight *= factor


def _sections(items: Iterable[_Item]) -> list[Section]:
    sections: list[list[Run]] = [[]]
    for item in items:
        if item.text is None:
            sections.append([])
        elif item.text:
            sections[-1].append(Run(item.text, item.weight))
    return [
        tuple(_run(weight, alike) for weight, alike in groupby(section, key=lambda run: run.weight))
        for section in sections
    ]


def _run(weight: float, alike: Iterable[Run]) -> Run:
    text = "".join(run.text for run in alike)
    if abs(weight) > _HEAVIEST:
        raise RequestError(f"the weight of {text[:40]!r} is {weight:.3g}; weights lie within ±{_HEAVIEST:g}")
    return Run(text, weight)
