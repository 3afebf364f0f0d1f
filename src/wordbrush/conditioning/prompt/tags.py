"""Tags in angle brackets: `<lora:name:0.8>` asks for a LoRA; the tag itself is no part of the text."""

from __future__ import annotations

import re
from dataclasses import dataclass

from wordbrush.errors import RequestError

_TAG = re.compile(r"<(\w+):([^<>]+)>")


@dataclass(frozen=True)
class Tag:
    """A tag as it was written, and its parts: `<kind:first:second:…>`."""

    written: str
    kind: str
    items: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class LoraTag:
    """A LoRA that a prompt asks for.

    Attributes:
        name: file stem, or the name its maker gave it.
        text: strength on the text encoders.
        unet: strength on the U-Net or transformer.
    """

    name: str
    text: float = 1.0
    unet: float = 1.0

    @classmethod
    def read(cls, tag: Tag) -> LoraTag:
        """Reads a tag of kind "lora".

        `<lora:name>` is strength 1, `<lora:name:te>` one strength for both parts, `<lora:name:te:unet>` one each;
        either may be named instead, as in `<lora:name:te=0.5:unet=1>`.

        Raises:
            RequestError: the tag has no name, a strength that is no number, or an argument that is not known.
        """
        name, given = tag.items[0].strip(), dict[str, float]()
        if not name:
            raise RequestError(f"{tag.written} names no LoRA; write <lora:name:0.8>")
        for place, item in enumerate(tag.items[1:]):
            label, equals, value = item.rpartition("=")
            if not equals and place < 2:
                label = ("te", "unet")[place]
            label = label.strip().lower()
            if label not in ("te", "unet") or label in given:
                raise RequestError(f"{tag.written} has an argument {item!r} too many; write <lora:name:te:unet>")
            given[label] = _strength(tag, value)
        text = given.get("te", 1.0)
        return cls(name=name, text=text, unet=given.get("unet", text))


def strip_tags(prompt: str) -> tuple[str, tuple[Tag, ...]]:
    """The prompt without its tags, and the tags in order."""
    found = [(match.group(), *match.groups()) for match in _TAG.finditer(prompt)]
    tags = tuple(Tag(written, kind.lower(), tuple(rest.split(":"))) for written, kind, rest in found)
    return _TAG.sub("", prompt), tags


def _strength(tag: Tag, value: str) -> float:
    try:
        strength = float(value)
    except ValueError as error:
        raise RequestError(f"{tag.written} has the strength {value!r}, which is not a number") from error
    if not -1000.0 <= strength <= 1000.0:  # nan is not either
        raise RequestError(f"{tag.written} has the strength {value!r}; 0 to 1 is usual, -1000 to 1000 possible")
    return strength
