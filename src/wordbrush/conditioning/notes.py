"""What a user should know of what becomes of a request's words."""

from __future__ import annotations

from wordbrush.conditioning.conditioning import Conditioner, TextOptions
from wordbrush.conditioning.prompt.program import PromptProgram
from wordbrush.request import GenerationRequest


def sentences_of(
    conditioner: Conditioner, request: GenerationRequest, steps: int, options: TextOptions
) -> list[str]:
    """One sentence each: words that are not read, or never met in training, embeddings and tags without effect.

    steps: how many the loop takes, for prompts that change on the way.

    Raises:
        RequestError: a prompt cannot be read.
    """
    said: list[str] = []
    for prompt in dict.fromkeys(request.prompts):
        said += _of(conditioner, PromptProgram.parse(prompt), steps, options)
    against = _of(conditioner, PromptProgram.parse_negative(request.negative_prompt), steps, options)
    return [*said, *(f"in the negative prompt, {sentence}" for sentence in against)]


def _of(conditioner: Conditioner, program: PromptProgram, steps: int, options: TextOptions) -> list[str]:
    said = program.sentences()
    for text in program.texts(steps):
        said += conditioner.report(text, options).sentences()
    return said
