r"""Prompts that change on the way: `[cat:dog:0.5]` and `[cat|dog]`, to one plain text per step.

    [before:after:when]   before, then after
    [after:when]          nothing, then after
    [before::when]        before, then nothing
    [one|two|three]       one in the first step, two in the second, three in the third, one in the fourth …

`when` with a decimal point is a fraction of all steps (0.5 is half of them), without one a number of steps. Each part
may hold more of the same, and weights. `\[ \] \( \) \: \|` stand for the signs themselves. A bracket that is not
closed, or that closes across another kind of bracket, is text; so are brackets without a schedule, which lower a weight
(`syntax.py`), and schedules more than 64 deep.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from wordbrush.conditioning.prompt.syntax import NUMBER

_DEEPEST = 64

_NUMBER = re.compile(rf"\s*({NUMBER})\s*")
_SIGNS = re.compile(r"\\.|\bembedding:|[\[\]():|]", re.DOTALL)  # the colon of `embedding:name` separates nothing
_OPENER = {")": "(", "]": "["}


@dataclass(frozen=True)
class Switch:
    """`[before:after:when]`."""

    before: tuple[Node, ...]
    after: tuple[Node, ...]
    when: float
    fraction: bool

    def last_step(self, steps: int) -> int:
        """How many steps show `before`."""
        return min(steps, int(self.when * steps if self.fraction else self.when))


@dataclass(frozen=True)
class Alternation:
    """`[one|two|…]`."""

    options: tuple[tuple[Node, ...], ...]


Node = str | Switch | Alternation


@dataclass(frozen=True)
class Segment:
    """A text and the number of the last step, counted from 1, that shows it."""

    end: int
    text: str


@dataclass(frozen=True)
class Template:
    """A prompt as a function of the step."""

    nodes: tuple[Node, ...]

    @classmethod
    def parse(cls, prompt: str) -> Template:
        """Reads any text; what is not a schedule stays as it is."""
        return cls(_Reader(prompt).nodes(0, len(prompt), 0))

    @property
    def constant(self) -> bool:
        """Whether the text is the same in every step."""
        return all(isinstance(node, str) for node in self.nodes)

    def at(self, step: int, steps: int) -> str:
        """The text of one step.

        Args:
            step: 0 is the first.
            steps: how many there are in all.
        """
        return "".join(_spell(self.nodes, step + 1, steps))

    def segments(self, steps: int) -> list[Segment]:
        """The texts of all steps, in order; each holds up to and with its `end`."""
        ends = sorted({steps, *(end for end in _ends(self.nodes, steps) if 1 <= end <= steps)})
        return [Segment(end, self.at(end - 1, steps)) for end in ends]


def _spell(nodes: Sequence[Node], number: int, steps: int) -> Iterator[str]:
    """The pieces of the text of the step with this number, counted from 1."""
    for node in nodes:
        if isinstance(node, str):
            yield node
        elif isinstance(node, Switch):
            yield from _spell(node.before if number <= node.last_step(steps) else node.after, number, steps)
        else:
            yield from _spell(node.options[(number - 1) % len(node.options)], number, steps)


def _ends(nodes: Sequence[Node], steps: int) -> Iterator[int]:
    """The steps, counted from 1, after which the text may change."""
    for node in nodes:
        if isinstance(node, Switch):
            yield node.last_step(steps)
            yield from _ends((*node.before, *node.after), steps)
        elif isinstance(node, Alternation):
            yield from range(1, steps + 1)


@dataclass
class _Bracket:
    """An open bracket, and the separators directly inside it."""

    sign: str
    start: int
    end: int = -1
    torn: bool = False  # something directly inside closes a bracket that was not opened there
    colons: list[int] = field(default_factory=list)
    bars: list[int] = field(default_factory=list)


class _Reader:
    """Finds which brackets belong together, in one pass, then builds nodes of the square ones with a schedule."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.squares: dict[int, _Bracket] = {}  # by start; only those that close as they should
        stack: list[_Bracket] = []
        for match in _SIGNS.finditer(text):
            sign, place = match.group(), match.start()
            if sign in "([":
                stack.append(_Bracket(sign, place))
            elif not stack:
                continue
            elif sign == ":":
                stack[-1].colons.append(place)
            elif sign == "|":
                stack[-1].bars.append(place)
            elif sign in ")]":
                self._close(stack, sign, place)

    def _close(self, stack: list[_Bracket], sign: str, place: int) -> None:
        bracket = stack[-1]
        if bracket.sign != _OPENER[sign]:
            bracket.torn = True
            return
        stack.pop()
        bracket.end = place
        if bracket.torn and stack:
            stack[-1].torn = True
        if sign == "]" and not bracket.torn:
            self.squares[bracket.start] = bracket

    def nodes(self, start: int, end: int, depth: int) -> tuple[Node, ...]:
        """The nodes of text[start:end], which holds whole brackets only."""
        found: list[Node] = []
        plain = place = start
        while (place := self.text.find("[", place, end)) != -1:
            bracket = self.squares.get(place)
            node = None if bracket is None or depth == _DEEPEST else self._scheduled(bracket, depth)
            if bracket is None or node is None:
                place += 1
                continue
            if plain < place:
                found.append(self.text[plain:place])
            found.append(node)
            plain = place = bracket.end + 1
        if plain < end:
            found.append(self.text[plain:end])
        return tuple(found)

    def _scheduled(self, bracket: _Bracket, depth: int) -> Node | None:
        """The bracket as a node; None if it has no schedule."""
        text, colons, start, end = self.text, bracket.colons, bracket.start + 1, bracket.end
        number = _NUMBER.fullmatch(text, colons[-1] + 1, end) if len(colons) in (1, 2) else None
        if number is not None:
            middle = colons[0] if len(colons) == 2 else start - 1
            before = self.nodes(start, max(middle, start), depth + 1)
            after = self.nodes(middle + 1, colons[-1], depth + 1)
            return Switch(before, after, float(number.group(1)), fraction="." in number.group(1))
        if not bracket.bars:
            return None
        spans = pairwise([start - 1, *bracket.bars, end])
        return Alternation(tuple(self.nodes(first + 1, last, depth + 1) for first, last in spans))
