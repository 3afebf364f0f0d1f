"""Pictures of the class that a subject belongs to, painted by the model itself before it changes (Ruiz 2023, §3.2)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch

from wordbrush.data.scenes import caption, sample_scene
from wordbrush.errors import RequestError
from wordbrush.formats.parts import ModelParts
from wordbrush.metadata import PictureMetadata, png_bytes, write_whole
from wordbrush.request import GenerationRequest
from wordbrush.training.finetune.recipes import Prior

_NOTE = "painted.json"
_SCENES = 555  # seed of the scenes that a model of scenes is asked to keep


def with_prompts(prior: Prior, parts: ModelParts) -> Prior:
    """The same with prompts, where it has none: sentences about scenes for the models that know them.

    Raises:
        RequestError: the model is no model of scenes.
    """
    if prior.prompts:
        return prior
    if parts.known_words is None:
        raise RequestError("train.prior has no prompts; give what the model is to keep, such as 'a photo of a dog'")
    texts = tuple(caption(sample_scene("train", _SCENES, index)) for index in range(prior.pictures))
    return prior.model_copy(update={"prompts": texts})


def paint_prior(
    prior: Prior, model: str | None, folder: Path, size: tuple[int, int], device: torch.device, seed: int
) -> Path:
    """Paints what is missing of the class pictures, each with its caption beside it; returns the folder.

    Picture i is painted from seed + i, so that any process, after any interruption, paints the same ones.

    Raises:
        RequestError: the folder holds pictures painted in another way.
    """
    from wordbrush.pipeline import load

    wanted = prior.model_dump(mode="json", exclude={"weight"}) | {"model": model, "size": list(size), "seed": seed}
    note = folder / _NOTE
    if note.exists() and json.loads(note.read_text(encoding="utf-8")) != wanted:
        raise RequestError(f"{folder} holds class pictures that another recipe had painted; delete it, or use another")
    write_whole(note, (json.dumps(wanted, indent=2) + "\n").encode())
    places = [folder / f"{number:04d}.png" for number in range(prior.pictures)]
    missing = [number for number, place in enumerate(places) if not place.with_suffix(".txt").exists()]
    if not missing:
        return folder
    pipe = load(model, device=device)
    for numbers in _runs(missing):
        request = GenerationRequest(
            prompt=tuple(prior.prompts[number % len(prior.prompts)] for number in numbers),
            seed=seed + numbers.start, width=size[0], height=size[1], steps=prior.steps, guidance=prior.guidance,
        )  # fmt: skip
        full = pipe.fill(request)
        for start, stop in pipe.batches(full, pipe.batch_size(full)):
            part = full.part(start, stop)
            for index, picture in enumerate(pipe(part).images):
                alone = part.part(index, index + 1)
                metadata = PictureMetadata(request=alone, origin=pipe.origin_of(alone))
                place = places[numbers.start + start + index]
                write_whole(place, png_bytes(picture, metadata))
                # the caption last: where there is one, its picture is whole
                write_whole(place.with_suffix(".txt"), (request.prompts[start + index] + "\n").encode())
    return folder


def _runs(numbers: list[int]) -> Iterator[range]:
    """The consecutive ones together."""
    start = 0
    for place in range(1, len(numbers) + 1):
        if place == len(numbers) or numbers[place] != numbers[place - 1] + 1:
            yield range(numbers[start], numbers[place - 1] + 1)
            start = place
