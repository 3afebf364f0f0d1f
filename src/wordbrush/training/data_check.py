"""Reading all of a data set before anything is trained on it: what is there, what is bad, and how fast it is read."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from wordbrush.data.buckets import Size, nearest_bucket
from wordbrush.data.dataset import BadExample, Dataset
from wordbrush.data.prepare import Cut, cut_out
from wordbrush.errors import RequestError
from wordbrush.training.data_recipe import DataRecipe, ScenesData
from wordbrush.training.feed import feed_sizes
from wordbrush.training.open_data import open_dataset

_ENDLESS = 1000  # so many of scenes without end
_SHOWN = 8


@dataclass(kw_only=True)
class DataReport:
    """What a data set holds.

    Attributes:
        examples: how many there are.
        pictures: how many of those that were read can be used.
        sizes: of the pictures as they are, width and height, and how many have each.
        prepared: the sizes they are cut to (buckets), and how many go to each; empty where no size is given.
        enlarged: how many are smaller than what they are cut to.
        labels: how many each class has, by name.
        uncaptioned: how many have an empty caption.
        captions: how many different ones there are.
        longest: letters of the longest caption.
        bad: what cannot be used and why, by name.
        per_second: pictures read and prepared in a second on one core.
    """

    examples: int = 0
    pictures: int = 0
    sizes: Counter[Size] = field(default_factory=Counter)
    prepared: Counter[Size] = field(default_factory=Counter)
    enlarged: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    uncaptioned: int = 0
    captions: int = 0
    longest: int = 0
    bad: dict[str, str] = field(default_factory=dict)
    per_second: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        content = {**vars(self), "per_second": round(self.per_second, 1), "labels": dict(self.labels)}
        for name in ("sizes", "prepared"):
            content[name] = {f"{w}x{h}": count for (w, h), count in sorted(content[name].items())}
        return content

    def lines(self) -> list[str]:
        """As a person reads it."""
        kinds = "one size" if len(self.sizes) == 1 else f"{len(self.sizes)} sizes"
        found = [f"{self.pictures} pictures of {kinds}: {_most_common(self.sizes)}"]
        if len(self.sizes) > 1:
            small, large = (min(self.sizes, key=_area), max(self.sizes, key=_area))
            found[0] += f" (smallest {small[0]}x{small[1]}, largest {large[0]}x{large[1]})"
        if self.prepared:
            found.append(f"cut to {_most_common(self.prepared)}; {self.enlarged} are smaller than that and enlarged")
        if self.labels:
            found.append(f"{len(self.labels)} classes: {_counts(self.labels)}")
        found.append(
            f"{self.captions} different captions, the longest of {self.longest} letters; {self.uncaptioned} empty"
        )
        found.append(f"{self.per_second:.0f} pictures read and prepared per second on one core")
        found.append(f"{len(self.bad)} bad" + (":" if self.bad else ""))
        found.extend(f"  {reason}" for reason in self.bad.values())
        return found


def check_data(
    recipe: DataRecipe,
    *,
    multiple: int = 1,
    limit: int | None = None,
    advance: Callable[[int], None] | None = None,
) -> DataReport:
    """Reads every picture and caption; of scenes without end, the first thousand.

    Args:
        multiple: as in `Feed`.
        limit: reads no more than so many, spread evenly over the data.
        advance: called after each picture, with how many there are.

    Raises:
        RequestError: the data as a whole cannot be opened, or are not cut to a size that could be a multiple.
    """
    dataset = open_dataset(recipe, skip_bad=True)
    sizes: list[Size] = []
    if recipe.size or recipe.buckets or dataset.common_size or multiple > 1:
        sizes = feed_sizes(recipe, dataset, multiple)
    report = DataReport(bad=dict(dataset.bad), examples=len(dataset))
    count = len(dataset)
    if isinstance(recipe, ScenesData) and recipe.count is None:
        count = _ENDLESS
    there, count = count, min(count, limit or count)
    captions: set[str] = set()
    started = time.perf_counter()
    for number in range(count):
        try:
            _look(report, dataset, number * there // count, recipe, sizes, captions)
        except BadExample as error:
            report.bad[error.key] = str(error)
        if advance is not None:
            advance(count)
    report.per_second = count / max(time.perf_counter() - started, 1e-9)
    report.captions = len(captions)
    if not report.pictures:
        raise RequestError(f"none of the {len(report.bad)} pictures can be used: {next(iter(report.bad.values()))}")
    return report


def _look(
    report: DataReport, dataset: Dataset, index: int, recipe: DataRecipe, sizes: list[Size], captions: set[str]
) -> None:
    example = dataset.read(index)
    size = example.image.shape[1], example.image.shape[0]
    report.pictures += 1
    report.sizes[size] += 1
    if sizes:
        target = sizes[nearest_bucket(size, sizes)]
        cut_out(example.image, Cut(size=target, fit=recipe.fit))
        report.prepared[target] += 1
        report.enlarged += size[0] < target[0] or size[1] < target[1]
    if example.label is not None:
        report.labels[dataset.labels[example.label] if dataset.labels else str(example.label)] += 1
    captions.add(example.caption)
    report.uncaptioned += not example.caption
    report.longest = max(report.longest, len(example.caption))


def _area(size: Size) -> int:
    return size[0] * size[1]


def _most_common(sizes: Counter[Size]) -> str:
    return _counts(Counter({f"{w}x{h}": count for (w, h), count in sizes.items()}))


def _counts(found: Counter[str]) -> str:
    shown = ", ".join(f"{name} ({count})" for name, count in found.most_common(_SHOWN))
    return shown + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
