"""The things that scenes are made of: nouns, plurals, synonyms and which of them can be recoloured (`objects.txt`)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources


@dataclass(frozen=True, kw_only=True)
class ObjectType:
    """One kind of thing. `noun` is its name everywhere; captions may also use a synonym from CLDR."""

    emoji: str
    noun: str
    plural: str
    synonyms: tuple[str, ...]
    colourable: bool
    category: str


def pluralise(noun: str) -> str:
    """The regular English plural; irregular ones are spelled out in objects.txt."""
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def with_article(phrase: str) -> str:
    """ "apple" -> "an apple". By sound: a ukulele, an x-ray, an SUV."""
    first = phrase.split()[0].lower()
    vowel = first[0] in "aeiou" and not first.startswith(("uni", "ufo", "use", "one"))
    return f"{'an' if vowel or first == 'suv' else 'a'} {phrase}"


def _parse(line: str, category: str) -> ObjectType:
    emoji, *words = line.split()
    colourable = words[-1] == "colours"
    fields: dict[str, str] = {"noun": ""}
    current = "noun"
    for word in words[:-1] if colourable else words:
        key, separator, value = word.partition("=")
        if separator:
            current, fields[key] = key, value
        else:
            fields[current] = f"{fields[current]} {word}".strip()
    noun = fields["noun"]
    return ObjectType(
        emoji=emoji,
        noun=noun,
        plural=fields.get("plural", pluralise(noun)),
        synonyms=tuple(fields["aka"].split(",")) if "aka" in fields else (),
        colourable=colourable,
        category=category,
    )


@cache
def object_types() -> tuple[ObjectType, ...]:
    """All taught things, in the order of objects.txt, which numbers the classes everywhere (the inspector's too)."""
    types: list[ObjectType] = []
    category = ""
    for line in resources.files(__package__).joinpath("objects.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            category = line.strip("[]")
        elif line and not line.startswith("#"):
            types.append(_parse(line, category))
    return tuple(types)


@cache
def object_index() -> dict[str, int]:
    """Noun -> class number."""
    return {kind.noun: number for number, kind in enumerate(object_types())}
