"""Pictures of the class that a subject belongs to, painted by the model itself before it changes (Ruiz 2023, §3.2)."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from wordbrush.data.scenes import caption, sample_scene
from wordbrush.errors import RequestError
from wordbrush.formats.parts import ModelParts
from wordbrush.metadata import PictureMetadata, png_bytes, write_whole
from wordbrush.request import GenerationRequest
from wordbrush.training.finetune.recipes import Finetune, Prior
from wordbrush.training.task import Stopped

if TYPE_CHECKING:
    from wordbrush.pipeline import Pipeline

_NOTE = "painted.json"
_SCENES = 555  # seed of the scenes that a model of scenes is asked to keep
_QUIET = 10.0  # seconds between two lines of the log


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


class PriorPainter:
    """Paints class pictures into a folder, each with its caption beside it.

    Picture i is painted from seed + i and always beside the same others, so that after any interruption the same bits
    are painted.
    """

    def __init__(
        self, prior: Prior, train: Finetune, folder: Path, size: tuple[int, int], seed: int
    ) -> None:
        """
        Args:
            prior: with prompts.
            train: whose model is asked, read as it is read in training.
            size: width and height of the pictures.
            seed: of the first one.
        """
        self.prior, self.train, self.folder, self.size, self.seed = prior, train, folder, size, seed
        self.places = [folder / f"{number:04d}.png" for number in range(prior.pictures)]

    def __call__(
        self, device: torch.device, stop: threading.Event | None = None, log: Callable[[str], None] | None = None
    ) -> None:
        """Paints what is missing; says so to `log`.

        Raises:
            RequestError: the folder holds pictures painted in another way.
            Stopped: `stop` was set; the pictures that are finished stay.
        """
        from wordbrush.pipeline import load

        self._sign()
        missing = len(self._missing(range(len(self.places))))
        if not missing:
            return
        say = log or (lambda _: None)
        say(f"painting {missing} of {len(self.places)} class pictures into {self.folder}, once")
        pipe = load(self.train.model, device=device, prediction=self.train.prediction)
        texts = self.prior.prompts
        request = GenerationRequest(
            prompt=tuple(texts[number % len(texts)] for number in range(len(self.places))),
            seed=self.seed, width=self.size[0], height=self.size[1], steps=self.prior.steps,
            guidance=self.prior.guidance, clip_skip=self.train.clip_skip,
        )  # fmt: skip
        full = pipe.fill(request)
        said = time.monotonic()
        for start, end in pipe.batches(full, pipe.batch_size(full)):
            if self._missing(range(start, end)):
                self._paint(pipe, full, start, end, stop)
            if time.monotonic() - said > _QUIET:
                said = time.monotonic()
                say(f"class pictures: {end} of {len(self.places)}")

    def _missing(self, numbers: range) -> list[int]:
        """Those without a caption, which is written last: where there is one, its picture is whole."""
        return [number for number in numbers if not self.places[number].with_suffix(".txt").exists()]

    def _sign(self) -> None:
        """Leaves a note of how the pictures are painted, or holds the one that is there against it."""
        wanted = self.prior.model_dump(mode="json", exclude={"weight"})
        wanted |= {"model": self.train.model, "size": list(self.size), "seed": self.seed}
        own = {"prediction": self.train.prediction, "clip_skip": self.train.clip_skip}
        wanted |= {key: value for key, value in own.items() if value is not None}
        note = self.folder / _NOTE
        if not note.exists():
            write_whole(note, (json.dumps(wanted, indent=2) + "\n").encode())
        elif json.loads(note.read_text(encoding="utf-8")) != wanted:
            raise RequestError(
                f"{self.folder} holds class pictures that another recipe had painted; delete it, or use another"
            )

    def _paint(
        self, pipe: Pipeline, full: GenerationRequest, start: int, end: int, stop: threading.Event | None
    ) -> None:
        part = full.part(start, end)
        for step in pipe.steps(part):
            if stop is not None and stop.is_set():
                raise Stopped
            latents = step.x
        for index, picture in enumerate(pipe.finish(part, latents)):
            alone, place = part.part(index, index + 1), self.places[start + index]
            write_whole(place, png_bytes(picture, PictureMetadata(request=alone, origin=pipe.origin_of(alone))))
            write_whole(place.with_suffix(".txt"), (part.prompts[index] + "\n").encode())
