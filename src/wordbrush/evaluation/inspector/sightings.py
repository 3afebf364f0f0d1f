"""What the inspector sees in pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wordbrush.data.pixels import to_images
from wordbrush.data.scenes.objects import object_types
from wordbrush.errors import ModelFileError
from wordbrush.formats.safetensors_file import read_tensors
from wordbrush.formats.weights import build
from wordbrush.networks.inspector import Inspector, InspectorConfig
from wordbrush.runtime.policy import Runtime

SHIPPED = Path(__file__).parent
THRESHOLD = 0.5
"""A thing counts when the inspector holds it likelier than not that one of that name is there."""

_CANDIDATE = 0.3  # presence from which a cell is looked at
_APART = 16.0  # pixels of a 128-pixel picture: two middles nearer than this are one thing
_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One thing seen. `box`: left, top, right, bottom as parts of the picture's sides, from 0 to 1."""

    noun: str
    colour: str
    box: tuple[float, float, float, float]
    score: float = 1.0

    @property
    def centre(self) -> tuple[float, float]:
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """Everything seen in one picture: things, surest first, and the ground's colour."""

    things: tuple[Thing, ...]
    background: str


class TrainedInspector:
    """An inspector with its weights, ready to look at pictures of any size."""

    def __init__(self, network: Inspector, runtime: Runtime | None = None) -> None:
        self.runtime = Runtime.choose() if runtime is None else runtime
        self.network = self.runtime.place(network)
        self.config = network.config

    @classmethod
    def load(cls, folder: Path = SHIPPED, runtime: Runtime | None = None) -> TrainedInspector:
        """Opens the shipped inspector, or one that `recipes/inspector.yaml` has trained.

        Raises:
            ModelFileError: a file is missing or damaged, or it was trained on another list of things.
        """
        described = folder / "config.json"
        try:
            config = InspectorConfig.from_dict(json.loads(described.read_text(encoding="utf-8")))
        except OSError as error:
            raise ModelFileError(f"the inspector's {described} cannot be read: {error.strerror or error}") from error
        except (ValueError, TypeError) as error:
            raise ModelFileError(f"the inspector's {described} is damaged: {error}") from error
        nouns = tuple(kind.noun for kind in object_types())
        if config.kinds != nouns:
            raise ModelFileError(
                f"the inspector in {folder} was trained on another list of things; train recipes/inspector.yaml again"
            )
        path = folder / "model.safetensors"
        tensors = {name: tensor.float() for name, tensor in read_tensors(path).items()}
        return cls(build(lambda: Inspector(config), tensors, path), runtime)

    def inspect(self, pictures: Sequence[Image.Image]) -> list[Sighting]:
        """What is in each picture."""
        return [sighting for images in self._batches(pictures) for sighting in self._look(images)]

    @torch.inference_mode()
    def embed(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """Features (N, C) float64 of whole pictures, for Fréchet distances."""
        parts = [self.network.features(images).embedding.double().cpu() for images in self._batches(pictures)]
        return torch.cat(parts).numpy()

    def _batches(self, pictures: Sequence[Image.Image]) -> Iterator[Tensor]:
        """(B, 3, S, S) in [-1, 1] where and as the network runs."""
        size = (self.config.size, self.config.size)
        for start in range(0, len(pictures), _BATCH):
            same = [picture.convert("RGB") for picture in pictures[start : start + _BATCH]]
            same = [
                picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS) for picture in same
            ]
            images = to_images(np.stack([np.asarray(picture) for picture in same]))
            yield images.to(self.runtime.device, self.runtime.dtype)

    @torch.inference_mode()
    def _look(self, images: Tensor) -> list[Sighting]:
        features = self.network.features(images)
        presence = self.network.presence(features.cells).float().sigmoid()  # (B, h, w)
        grounds = self.network.background(features.embedding).argmax(dim=1).tolist()
        sightings = []
        for cells, likely, ground in zip(features.cells, presence, grounds, strict=True):
            rows, columns = (likely > _CANDIDATE).nonzero(as_tuple=True)
            things = self._things(cells[rows, columns], likely[rows, columns], rows, columns)
            sightings.append(Sighting(things=things, background=self.config.backgrounds[ground]))
        return sightings

    def _things(self, cells: Tensor, presence: Tensor, rows: Tensor, columns: Tensor) -> tuple[Thing, ...]:
        """Things read in cells (P, N), the surer of any two whose middles nearly meet."""
        answers = self.network.answers(cells)
        likelihood, kinds = answers.kind.float().softmax(dim=1).max(dim=1)
        scores = presence * likelihood
        boxes = self.network.boxes(answers.box, rows, columns)  # (P, 4) pixels
        colours = answers.colour.argmax(dim=1)
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        kept: list[int] = []
        for index in scores.argsort(descending=True).tolist():
            if all((centres[index] - centres[other]).norm() >= _APART for other in kept):
                kept.append(index)
        parts = (boxes / self.config.size).tolist()
        things = [
            Thing(
                noun=self.config.kinds[int(kinds[index])],
                colour=self.config.colours[int(colours[index])],
                box=tuple(parts[index]),
                score=float(scores[index]),
            )
            for index in kept
            if scores[index] >= THRESHOLD
        ]
        return tuple(sorted(things, key=lambda thing: -thing.score))
