"""Painting requests one by one, where each has its own conditioning or noise and no batch could hold them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from wordbrush.cli import console
from wordbrush.errors import ModelFileError, RequestError
from wordbrush.request import GenerationRequest

if TYPE_CHECKING:
    from PIL import Image

    from wordbrush.pipeline import Pipeline


def paint_singly(
    pipe: Pipeline, requests: Sequence[GenerationRequest], title: str
) -> Iterator[tuple[GenerationRequest, Image.Image]]:
    """Every request, filled in, with its picture, as soon as that is painted."""
    filled = [pipe.fill(request) for request in requests]
    with console.progress(title, sum(map(pipe.step_count, filled))) as advance:
        for request in filled:
            for step in pipe.steps(request):
                latents = step.x
                advance()
            yield request, pipe.finish(request, latents)[0]


def notes_of(pipe: Pipeline, requests: Sequence[GenerationRequest]) -> list[str]:
    """What a user should know of filled-in requests, no sentence twice."""
    return list(dict.fromkeys(note for request in requests for note in pipe.notes(request)))


def model_at_hand(named: str | None) -> str | None:
    """The model that a file names, if it is here: a name out of a file is no reason to download anything.

    Raises:
        RequestError: it is not.
    """
    from wordbrush.formats.open import locate_model

    try:
        locate_model(named)
    except ModelFileError as error:
        raise RequestError(f"the model {named!r} that the file names is not here; say where it is with -m") from error
    return named
