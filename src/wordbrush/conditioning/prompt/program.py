"""A prompt as the pipeline uses it: which texts, with which weights, hold at each step, and which LoRAs it names."""

from __future__ import annotations

import re
from dataclasses import dataclass

from wordbrush.conditioning.prompt.schedule import Template
from wordbrush.conditioning.prompt.syntax import NUMBER
from wordbrush.conditioning.prompt.tags import LoraTag, strip_tags

_AND = re.compile(r"\bAND\b")
_TRAILING_WEIGHT = re.compile(rf":\s*({NUMBER})\s*$")


@dataclass(frozen=True)
class WeightedText:
    """One text that holds at a step, and its share of the guidance."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True)
class Part:
    """What stands between two ANDs."""

    template: Template
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class PromptProgram:
    """A prompt, taken apart as far as sampling needs it.

    Attributes:
        parts: at least one; with more, their guidance is added up (Liu 2022, Composable Diffusion).
        loras: what the `<lora:…>` tags ask for, in order.
        unknown: tags without effect, as they were written.
    """

    parts: tuple[Part, ...]
    loras: tuple[LoraTag, ...] = ()
    unknown: tuple[str, ...] = ()

    @classmethod
    def parse(cls, prompt: str) -> PromptProgram:
        """Reads a prompt: `a cat :1.2 AND a dog <lora:fur:0.8>`. The weight of a part stands at its end.

        A number at the end of a prompt without AND is text ("in 16:9"), unlike in A1111, where it would multiply the
        guidance by 9.

        Raises:
            RequestError: a LoRA tag cannot be read.
        """
        text, tags = strip_tags(prompt)
        pieces = _AND.split(text)
        parts = [_part(piece) for piece in pieces] if len(pieces) > 1 else [Part(Template.parse(text))]
        return cls(
            parts=tuple(parts),
            loras=tuple(LoraTag.read(tag) for tag in tags if tag.kind == "lora"),
            unknown=tuple(tag.written for tag in tags if tag.kind != "lora"),
        )

    @classmethod
    def parse_negative(cls, prompt: str) -> PromptProgram:
        """Reads a negative prompt, in which AND is a word, as in A1111, and no tag has an effect."""
        text, tags = strip_tags(prompt)
        return cls(parts=(Part(Template.parse(text)),), unknown=tuple(tag.written for tag in tags))

    @property
    def weights(self) -> tuple[float, ...]:
        """The parts' weights, the same in every step."""
        return tuple(part.weight for part in self.parts)

    @property
    def constant(self) -> bool:
        """Whether every step has the same texts."""
        return all(part.template.constant for part in self.parts)

    def at(self, step: int, steps: int) -> tuple[WeightedText, ...]:
        """What holds at a step, one entry a part.

        Args:
            step: 0 is the first.
            steps: how many steps the loop takes.
        """
        return tuple(WeightedText(part.template.at(step, steps), part.weight) for part in self.parts)

    def texts(self, steps: int) -> tuple[str, ...]:
        """Every text that some step needs, each once, in order of appearance."""
        found = (segment.text for part in self.parts for segment in part.template.segments(steps))
        return tuple(dict.fromkeys(found))

    def sentences(self) -> list[str]:
        """What a user should know of the tags."""
        return [f"the tag {tag} has no effect here" for tag in dict.fromkeys(self.unknown)]


def _part(piece: str) -> Part:
    match = _TRAILING_WEIGHT.search(piece)
    if match is None:
        return Part(Template.parse(piece))
    return Part(Template.parse(piece[: match.start()].rstrip()), float(match.group(1)))
