r"""Prompts that are drawn: alternatives in braces and wildcards, as the dynamic-prompts extension has them.

    {a|b|c}              one of the three
    {2::a|b}             a twice as often as b
    {2$$a|b|c}           two of them, none twice, joined by ", "
    {2$$ and $$a|b|c}    joined by " and "
    {1-3$$a|b|c}         one to three; {-2$$…} one to two, {2-$$…} two to all
    __animal__           a text of the list `animal`, which may be drawn in turn; __animals/*__ of all that fit
    {2$$__animal__}      two texts of it
    \{ \} \|             the signs themselves; \__ is two underscores

Round and square brackets are the prompt language's own and stay as they are: a bar inside `[a|b]` parts nothing.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from wordbrush.conditioning.wildcards import Wildcards
from wordbrush.errors import RequestError

_SIGNS = re.compile(r"(?P<escaped>\\(?:[{}|]|(?=__)))|(?P<sign>[{}])|__(?P<wildcard>(?!_)[\w./*\-]+?)__(?!_)")
_INSIDE = re.compile(r"\\.|[{}|\[\]]", re.DOTALL)
# Nothing given back (`*+`): a prompt of thousands of spaces or digits would otherwise take hours.
_HOW_MANY = re.compile(r"\s*+(\d*+)\s*+(-?+)\s*+(\d*+)\s*+\$\$(?:([^{}]*?)\$\$)?", re.DOTALL)
_WEIGHT = re.compile(r"\s*+(\d++(?:\.\d*+)?+|\.\d++)::")
_ONLY_WILDCARD = re.compile(r"\s*__(?!_)([\w./*\-]+?)__\s*")

_DEEPEST = 32
_MOST_DRAWS = 10_000
_LONGEST_WEIGHT = 100


def is_drawn(text: str) -> bool:
    """Whether anything in a text is drawn or escaped, so that it is not its own outcome."""
    return _SIGNS.search(text) is not None


def draws(text: str) -> bool:
    """Whether a text has alternatives or wildcards, not only signs that are escaped."""
    return any(match.lastgroup != "escaped" for match in _SIGNS.finditer(text))


def drawn(text: str, wildcards: Wildcards, rng: random.Random) -> str:
    """What the text becomes with these random numbers.

    Raises:
        RequestError: braces are not paired, a wildcard does not exist, or they lead back to themselves.
    """
    return _Draw(wildcards, rng).text(text, 0)


@dataclass
class _Draw:
    wildcards: Wildcards
    rng: random.Random
    count: int = 0
    read: dict[str, list[str]] = field(default_factory=dict)

    def text(self, text: str, depth: int) -> str:
        """A text with all its draws done."""
        if depth > _DEEPEST:
            raise RequestError(f"alternatives and wildcards lead more than {_DEEPEST} deep, perhaps into themselves")
        return "".join(self._parts(text, depth))

    def _parts(self, text: str, depth: int) -> Iterator[str]:
        place = 0
        while (match := _SIGNS.search(text, place)) is not None:
            yield text[place : match.start()]
            place = match.end()
            if match.lastgroup == "escaped":
                yield match.group()[1:]
                if not match.group()[1:]:  # an escaped wildcard: both underscores are text
                    yield "__"
                    place += 2
            elif match.lastgroup == "wildcard":
                yield self._one(self._listed(match.group("wildcard")), depth)
            elif match.group() == "}":
                raise RequestError(f"the prompt has }} without {{ in {_near(text, place)}; write \\}} for a brace")
            elif text[: match.start()].endswith("$"):
                raise RequestError("variables, ${name=…}, are not read; write $\\{ for a brace after a dollar sign")
            else:
                options, place = _options(text, place)
                yield self._block(options, depth)
        yield text[place:]

    def _block(self, options: list[str], depth: int) -> str:
        match = _HOW_MANY.match(options[0])
        if match is None or not (match[1] or match[3]):
            return self._one(options, depth)
        # the separator may hold a bar, which then has parted it already: "{2$$|$$a|b}" is not read so
        options = [options[0][match.end() :], *options[1:]]
        only = _ONLY_WILDCARD.fullmatch(options[0]) if len(options) == 1 else None
        if only is not None:
            options = self._listed(only[1])
        least = int(match[1]) if match[1] else 1
        most = int(match[3]) if match[3] else len(options) if match[2] else least
        number = min(self.rng.randint(min(least, most), max(least, most)), len(options))
        picked = self._picked(options, number)
        texts = [self.text(option, depth + 1).strip() for option in picked]
        return (", " if match[4] is None else match[4]).join(texts)

    def _one(self, options: list[str], depth: int) -> str:
        picked = self._picked(options, 1)
        return self.text(picked[0], depth + 1) if picked else ""

    def _picked(self, options: Sequence[str], number: int) -> list[str]:
        """So many of the options, none twice, by their weights and without them."""
        self.count += number
        if self.count > _MOST_DRAWS:
            raise RequestError(f"the prompt draws more than {_MOST_DRAWS} times; its wildcards multiply")
        found = [_weighted(option) for option in options]
        picked = []
        for _ in range(number):
            total = sum(weight for weight, _ in found)
            if total <= 0:
                break
            place = self.rng.choices(range(len(found)), [weight for weight, _ in found])[0]
            picked.append(found.pop(place)[1])
        return picked

    def _listed(self, name: str) -> list[str]:
        if name not in self.read:
            self.read[name] = self.wildcards.texts(name)
        return self.read[name]


def split_outside(text: str) -> list[str]:
    """The parts of a text between bars that stand in no braces and no square brackets."""
    parts, place = [], 0
    for position in _bars(text):
        parts.append(text[place:position])
        place = position + 1
    return [*parts, text[place:]]


def _options(text: str, start: int) -> tuple[list[str], int]:
    """The options of the block whose first sign after the brace is at `start`, and where the text goes on."""
    depth = 1
    for match in _INSIDE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return split_outside(text[start : match.start()]), match.end()
    raise RequestError(f"the prompt has {{ without }} in {_near(text, start)}; write \\{{ for a brace")


def _bars(text: str) -> Iterator[int]:
    braces, squares = 0, 0
    for match in _INSIDE.finditer(text):
        sign = match.group()
        braces += {"{": 1, "}": -1}.get(sign, 0)
        if sign == "[" and "]" in text[match.end() :]:
            squares += 1
        elif sign == "]" and squares:
            squares -= 1
        elif sign == "|" and not braces and not squares:
            yield match.start()


def _weighted(option: str) -> tuple[float, str]:
    match = _WEIGHT.match(option)
    if match is None:
        return 1.0, option
    if len(match[1]) > _LONGEST_WEIGHT:
        raise RequestError(f"the weight {match[1][:20]}… of an alternative is no number that anybody needs; shorten it")
    return float(match[1]), option[match.end() :]


def _near(text: str, place: int) -> str:
    return repr(text[max(0, place - 20) : place + 20])
