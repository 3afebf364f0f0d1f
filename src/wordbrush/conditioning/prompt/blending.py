"""Which prompts have a line between them."""

from __future__ import annotations

from collections.abc import Sequence

from wordbrush.conditioning.prompt.program import PromptProgram
from wordbrush.errors import RequestError


def blendable(prompts: Sequence[str], other: str) -> str:
    """The text of `other`, with which all the prompts can be blended.

    Raises:
        RequestError: a prompt changes on the way or has AND, or the two ask for different LoRAs.
    """
    programs = {text: PromptProgram.parse(text) for text in (*prompts, other)}
    for text, program in programs.items():
        if len(program.parts) > 1 or not program.constant:
            raise RequestError(f"the prompt {text!r} changes on the way or has AND, and so cannot be blended")
        if program.loras != programs[other].loras:
            raise RequestError(f"the prompts {text!r} and {other!r} ask for different LoRAs, and so cannot be blended")
    return programs[other].at(0, 1)[0].text
