"""Rows of training data: which picture, cut where, with which caption, as a pure function of (seed, step, row).

So any process can make any part of a step, and a run that goes on after a kill sees what it would have seen.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wordbrush.data.buckets import BucketPlan, Size, bucket_sizes, nearest_bucket
from wordbrush.data.dataset import BadExample, Dataset
from wordbrush.data.pixels import to_images
from wordbrush.data.prepare import CaptionRules, Cut, cut_out
from wordbrush.errors import RequestError, WorkFailed
from wordbrush.training.cache import TensorCache, Tensors
from wordbrush.training.data_recipe import Buckets, DataRecipe
from wordbrush.training.open_data import open_dataset

SKIPPED = "skipped.jsonl"
"""The file in a run's folder that lists what skip_bad passed over: a JSON object a line, `key` and `reason`."""

# The entry of cached tensors that has the picture's original size and the cut's corner.
_PLACED = "placed"

# So many replacements of one bad row, and the data as a whole are bad.
_TRIES = 100


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What is known of rows without their pixels.

    Attributes:
        captions: after dropping and shuffling.
        labels: (B,) int64; None where the data have no classes.
        keys: the names of the examples.
        originals: (B, 2) int64, height and width of the pictures before they were resized.
        corners: (B, 2) int64, top and left of the cut in the resized picture: SDXL's crop conditioning.
    """

    captions: list[str]
    labels: Tensor | None
    keys: list[str]
    originals: Tensor
    corners: Tensor


@dataclass(frozen=True, kw_only=True)
class Samples(Rows):
    """Rows with their pictures.

    Attributes:
        images: (B, 3, H, W) float32 in [-1, 1].
    """

    images: Tensor


@dataclass(frozen=True, kw_only=True)
class Place:
    """One row before anything of it is read: the example, its cut, and the name that its draws are seeded with."""

    index: int
    cut: Cut
    name: str
    bucket: int = 0


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One row once it is read: with pixels, (h, w, 3) uint8, or with what was made of them."""

    caption: str
    label: int | None
    key: str
    original: tuple[int, ...]
    corner: tuple[int, ...]
    pixels: np.ndarray
    tensors: Tensors


class Feed:
    """The pictures and captions of a run, step by step."""

    def __init__(
        self,
        recipe: DataRecipe,
        seed: int,
        batch: int,
        *,
        multiple: int = 1,
        folder: Path | None = None,
        dataset: Dataset | None = None,
    ) -> None:
        """
        Args:
            batch: rows of a step, over all processes.
            multiple: what both sides must be multiples of, such as the factor of the autoencoder.
            folder: where `skipped.jsonl` lists what skip_bad passes over.
            dataset: in place of the one that the recipe names.

        Raises:
            RequestError: the data are not there or not as they should be, or the size is no multiple.
        """
        self.recipe, self.seed, self.batch, self.folder = recipe, seed, batch, folder
        self.dataset = open_dataset(recipe) if dataset is None else dataset
        self.rules = CaptionRules(**recipe.captions.model_dump())
        self._bad: dict[str, str] = {}
        for key, reason in self.dataset.bad:
            self._skip(key, reason)
        self.sizes = feed_sizes(recipe, self.dataset, multiple)
        self.plan = BucketPlan(self._members(self.sizes), batch) if recipe.buckets is not None else None
        if self.plan is not None and not self.plan.steps:
            raise RequestError(f"none of the {len(self._bad)} pictures can be used: {next(iter(self._bad.values()))}")
        self._epochs: dict[int, Sequence[int] | np.ndarray] = {}
        self._bucketed: dict[int, list[tuple[int, np.ndarray]]] = {}

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The names of the classes."""
        return self.dataset.labels

    @property
    def epoch_steps(self) -> int:
        """Steps in which every example comes up."""
        return -(-len(self.dataset) // self.batch) if self.plan is None else self.plan.steps

    def rows(self, step: int, rows: range) -> Samples:
        """These rows of a step; all rows of a step have one size.

        Raises:
            BadExample: a picture cannot be read, and skip_bad is not set.
            WorkFailed: with skip_bad, hardly any picture can be read.
        """
        read = [self._good(place, self._read) for place in self.places(step, rows)]
        images = to_images(np.stack([row.pixels for row in read]))
        return Samples(images=images, **_told(read))

    def encoded(
        self, step: int, rows: range, cache: TensorCache, encode: Callable[[Tensor], Tensors]
    ) -> tuple[Rows, Tensors]:
        """Like `rows`, but what `encode` makes of each picture in place of its pixels, from the cache if it is there.

        encode: takes one picture, (1, 3, H, W) in [-1, 1], and gives tensors that begin with that 1, or none. It gets
            each alone, so that its bits do not depend on which others happened to be cached.

        Returns:
            The rows, and the tensors by name, (B, ...).

        Raises:
            As `rows`.
        """

        def use(place: Place) -> _Row:
            key = self.content_key(place)
            tensors = cache.get(key)
            if tensors is None:
                row = self._read(place)
                made = encode(to_images(np.stack([row.pixels])))
                kept = {**made, _PLACED: torch.tensor([row.original, row.corner])}
                tensors = cache.put(key, kept)
            original, corner = (tuple(pair) for pair in tensors.pop(_PLACED).tolist())
            return self._row(place, original=original, corner=corner, tensors=tensors)

        read = [self._good(place, use) for place in self.places(step, rows)]
        names = read[0].tensors.keys()
        return Rows(**_told(read)), {name: torch.cat([row.tensors[name] for row in read]) for name in names}

    def places(self, step: int, rows: range) -> list[Place]:
        """What these rows of a step are to be."""
        if not 0 <= rows.start < rows.stop <= self.batch:
            raise ValueError(f"{rows} are not rows of a batch of {self.batch}")
        if self.plan is None:
            chosen = [(0, self._index(step * self.batch + row)) for row in rows]
        else:
            epoch, number = divmod(step, self.plan.steps)
            bucket, members = self._bucketed_steps(epoch)[number]
            chosen = [(bucket, int(members[row])) for row in rows]
        return [
            self._place(index, bucket, f"{self.seed}/{step}/{row}")
            for row, (bucket, index) in zip(rows, chosen, strict=True)
        ]

    def content_key(self, place: Place) -> str:
        """A hash of all that decides the row's pixels: the picture's content and how it is cut. Raises BadExample."""
        return hashlib.sha256(f"{self.dataset.digest(place.index)} {place.cut}".encode()).hexdigest()

    def _place(self, index: int, bucket: int, name: str) -> Place:
        draw = random.Random(f"cut/{name}")
        across, down, mirror = draw.random(), draw.random(), draw.random()
        at = (across, down) if self.recipe.crop == "random" else (0.5, 0.5)
        cut = Cut(size=self.sizes[bucket], fit=self.recipe.fit, at=at, flip=mirror < self.recipe.flip)
        return Place(index=index, cut=cut, name=name, bucket=bucket)

    def _index(self, position: int) -> int:
        epoch, place = divmod(position, len(self.dataset))
        return int(self._order(epoch)[place])

    def _order(self, epoch: int) -> Sequence[int] | np.ndarray:
        """The order of an epoch; the last few are kept, as steps of two epochs are made at once where they meet."""
        found = self._epochs.get(epoch)
        if found is None:
            found = self.dataset.order(self.seed, epoch)
            self._epochs = {**dict(list(self._epochs.items())[-1:]), epoch: found}
        return found

    def _bucketed_steps(self, epoch: int) -> list[tuple[int, np.ndarray]]:
        assert self.plan is not None
        found = self._bucketed.get(epoch)
        if found is None:
            found = self.plan.epoch(self._order(epoch), self.seed, epoch)
            self._bucketed = {**dict(list(self._bucketed.items())[-1:]), epoch: found}
        return found

    def _members(self, buckets: Sequence[Size]) -> list[list[int]]:
        """Which examples each bucket has; their headers are read for it."""
        members: list[list[int]] = [[] for _ in buckets]
        common = self.dataset.common_size
        for index in range(len(self.dataset)):
            try:
                size = common or self.dataset.size(index)
            except BadExample as error:
                if not self.recipe.skip_bad:
                    raise
                self._skip(error.key, str(error))
                continue
            members[nearest_bucket(size, buckets)].append(index)
        return members

    def _read(self, place: Place) -> _Row:
        picture = self.dataset.image(place.index)
        pixels, corner = cut_out(picture, place.cut)
        return self._row(place, original=(picture.shape[0], picture.shape[1]), corner=corner, pixels=pixels)

    def _row(
        self,
        place: Place,
        *,
        original: tuple[int, ...],
        corner: tuple[int, ...],
        pixels: np.ndarray | None = None,
        tensors: Tensors | None = None,
    ) -> _Row:
        draw = random.Random(f"caption/{place.name}")
        return _Row(
            caption=self.rules.applied(self.dataset.caption(place.index, draw), draw),
            label=self.dataset.label(place.index),
            key=self.dataset.key(place.index),
            original=original,
            corner=corner,
            pixels=np.empty(0) if pixels is None else pixels,
            tensors=tensors or {},
        )

    def _good(self, place: Place, use: Callable[[Place], _Row]) -> _Row:
        """The row, or with skip_bad that of another example of the bucket, drawn by the row's own numbers."""
        draw = random.Random(f"again/{place.name}")
        for _ in range(_TRIES):
            try:
                return use(place)
            except BadExample as error:
                if not self.recipe.skip_bad:
                    raise
                self._skip(error.key, str(error))
                last = str(error)
            members = range(len(self.dataset)) if self.plan is None else self.plan.members[place.bucket]
            place = replace(place, index=int(members[draw.randrange(len(members))]))
        raise WorkFailed(f"{_TRIES} pictures in a row cannot be used, the last because {last}")

    def _skip(self, key: str, reason: str) -> None:
        """Takes note of a bad example, once in a process; `skipped` joins the notes of all."""
        if key in self._bad:
            return
        self._bad[key] = reason
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            line = json.dumps({"key": key, "reason": reason}, ensure_ascii=False) + "\n"
            with (self.folder / SKIPPED).open("ab", buffering=0) as file:  # one write: lines of processes stay whole
                file.write(line.encode())

    def skipped(self) -> dict[str, str]:
        """What was passed over so far and why, by name: in the folder by every process and run, or else in this one."""
        return self._bad if self.folder is None else read_skipped(self.folder)


def read_skipped(folder: Path) -> dict[str, str]:
    """What a run passed over and why, by name, in the order of the names."""
    try:
        lines = (folder / SKIPPED).read_text(encoding="utf-8").split("\n")  # names may have other ends of lines in them
    except FileNotFoundError:
        return {}
    found: dict[str, str] = {}
    for line in lines:
        try:
            values = json.loads(line)
        except ValueError:  # cut short by a kill
            continue
        found[values["key"]] = values["reason"]
    return dict(sorted(found.items()))


def _told(rows: Sequence[_Row]) -> dict[str, Any]:
    """The fields of `Rows`."""
    labels = [row.label for row in rows]
    return {
        "captions": [row.caption for row in rows],
        "labels": None if None in labels else torch.tensor(labels),
        "keys": [row.key for row in rows],
        "originals": torch.tensor([row.original for row in rows]),
        "corners": torch.tensor([row.corner for row in rows]),
    }


def feed_sizes(recipe: DataRecipe, dataset: Dataset, multiple: int) -> list[Size]:
    """The sizes, width and height, that rows may have. Raises RequestError: they do not fit `multiple`."""
    if recipe.buckets is not None:
        return _bucket_sizes(recipe.buckets, multiple)
    size = recipe.size or dataset.common_size
    if size is None:
        raise RequestError("data.size is missing: give the side of the squares that pictures are cut to, or buckets")
    width, height = (size, size) if isinstance(size, int) else size
    for name, side in (("width", width), ("height", height)):
        if side % multiple:
            low = side // multiple * multiple
            fitting = f"{low} and {low + multiple}" if low else str(multiple)
            raise RequestError(
                f"data.size: the {name} {side} is not a multiple of {multiple}, which this model needs; "
                f"the nearest that fit are {fitting}"
            )
    return [(width, height)]


def _bucket_sizes(buckets: Buckets, multiple: int) -> list[Size]:
    step = buckets.step
    if step % multiple:
        raise RequestError(
            f"data.buckets.step={step} is not a multiple of {multiple}, which this model needs; "
            f"the nearest that fits is {-(-step // multiple) * multiple}"
        )
    least, most = buckets.least or max(step, buckets.side // 2), buckets.most or 2 * buckets.side
    try:
        return bucket_sizes(buckets.side, step, least, most)
    except ValueError as error:
        raise RequestError(f"data.buckets: {error}") from error
