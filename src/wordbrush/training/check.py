"""A recipe tried out before it is carried out: what is wrong with it and its data, what it will take, how long."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from wordbrush.errors import RequestError, WordbrushError
from wordbrush.training.assemble import missing_parts, read_parts
from wordbrush.training.data_check import DataReport, check_data
from wordbrush.training.data_recipe import DataRecipe, Prepared, skipping
from wordbrush.training.distributed import World
from wordbrush.training.estimate import Memory, Timing, memory_of, parameters, short, time_of
from wordbrush.training.feed import Feed
from wordbrush.training.finetune.recipes import FinetuneRecipe, InversionRecipe
from wordbrush.training.loop import Trainer, check_device
from wordbrush.training.recipe import BuildRecipe, Recipe, RecipeError, read_recipe
from wordbrush.training.run import named_task, spare_workers
from wordbrush.training.task import Task
from wordbrush.training.tasks.diffusion_recipe import ByEmbedding, ByText, DiffusionRecipe
from wordbrush.training.tasks.recipes import AssembleRecipe, CLIPRecipe, DenoiserRecipe, VAERecipe

LOOKED_AT = 200
"""Pictures of a data set that are read, unless all are asked for."""

_NAMED = 5  # bad pictures that are named; the rest are counted
_FIRST_PAINTED = 2  # class pictures of prior preservation that are painted to try it out


@dataclass(kw_only=True)
class CheckReport:
    """What `wordbrush train --check` says.

    Attributes:
        problems: each would stop the run, or make it useless; empty when the recipe can be carried out.
        notes: what is worth knowing.
        data: of each table of the recipe that names pictures, by its key.
        parameters: numbers that are trained, and that are not, by network.
        epochs: how often the run sees all pictures; None where there is no end of them.
        checkpoint: bytes of the file that is written every `checkpoint_every` steps.
    """

    recipe: str
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: dict[str, DataReport] = field(default_factory=dict)
    parameters: dict[str, tuple[int, int]] = field(default_factory=dict)
    steps: int = 0
    batch: int = 0
    epochs: float | None = None
    device: str = ""
    memory: Memory | None = None
    time: Timing | None = None
    checkpoint: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        data = {key: found.to_dict() for key, found in self.data.items()}
        values: dict[str, Any] = {"ok": not self.problems} | asdict(replace(self, data={})) | {"data": data}
        if self.memory is not None:
            values["memory"]["total"] = self.memory.total
        return values


def check(
    path: Path,
    *,
    device: str = "auto",
    workers: int | None = None,
    skip_bad: bool = False,
    pictures: int | None = LOOKED_AT,
) -> CheckReport:
    """Tries out a recipe file in a temporary folder: nothing is kept, and nothing is written anywhere else.

    `skip_bad`: pictures that cannot be used are to be passed over. `pictures`: how many of each data set are read; None
    is all.
    """
    try:
        recipe = read_recipe(path)
    except RecipeError as error:
        return CheckReport(recipe=str(path), problems=list(error.mistakes))
    except RequestError as error:
        return CheckReport(recipe=str(path), problems=[str(error)])
    report = CheckReport(recipe=recipe.name)
    if isinstance(recipe, BuildRecipe):
        _check_parts(recipe, report)
        return report
    report.steps, report.batch = recipe.steps, recipe.batch
    report.notes += _alone_only(recipe)
    if skip_bad:
        try:
            recipe = recipe.model_copy(update={"train": skipping(recipe.train)})
        except RequestError as error:
            report.problems.append(str(error))
    for key, data in _sources(recipe):
        _check_data(key, data, report, pictures, wanted_captions=_reads_captions(recipe, data))
    with tempfile.TemporaryDirectory(prefix="wordbrush-check-") as folder:
        try:
            _try_out(recipe, Path(folder), report, device=device, workers=workers)
        except WordbrushError as error:
            # a fault in the data is met again by who reads them, in much the same words
            fault = str(error).removeprefix("train.validation: ")
            if not (report.problems and isinstance(error, RequestError) and fault in "\n".join(report.problems)):
                report.problems.append(_without(str(error), folder))
    return report


def _check_parts(recipe: BuildRecipe, report: CheckReport) -> None:
    report.notes.append("this recipe trains nothing: it takes seconds, and little memory")
    if isinstance(recipe.build, AssembleRecipe):
        missing = list(missing_parts(recipe.build))
        report.problems += missing
        if not missing:
            try:
                read_parts(recipe.build)
            except WordbrushError as error:
                report.problems.append(str(error))


def _alone_only(recipe: Recipe) -> list[str]:
    """A note on what one process trains and several refuse, since a check is of one."""
    if recipe.parallel == "fsdp2":
        try:
            check_device(recipe, torch.device("cuda"), sharded=True)
        except RequestError as error:
            return [f"several processes refuse this recipe: {error}"]
    return []


def _sources(recipe: Recipe) -> Iterator[tuple[str, DataRecipe]]:
    for key, value in recipe.train:
        if isinstance(value, Prepared):
            yield f"train.{key}", value  # type: ignore[misc]  # those that recipes hold are of its kinds


def _reads_captions(recipe: Recipe, data: DataRecipe) -> bool:
    """Whether captions are learnt from, and empty ones stay empty."""
    train = recipe.train
    if isinstance(train, CLIPRecipe):  # to which the same words for every picture say nothing
        return True
    if data.captions.trigger or data.captions.before or data.captions.after:
        return False
    if isinstance(train, DiffusionRecipe):
        told = train.conditioning
        return isinstance(told, ByText) or (isinstance(told, ByEmbedding) and told.of == "text")
    return isinstance(train, FinetuneRecipe) and not isinstance(train, InversionRecipe)  # which has templates


def _check_data(
    key: str, recipe: DataRecipe, report: CheckReport, pictures: int | None, *, wanted_captions: bool
) -> None:
    """Reads the data, or some of them, spread evenly."""
    try:
        found = check_data(recipe, limit=pictures)
    except RequestError as error:
        report.problems.append(f"{key}: {error}")
        return
    report.data[key] = found
    if found.bad:
        shown = "; ".join([*found.bad.values()][:_NAMED])
        more = f"; and {len(found.bad) - _NAMED} more" if len(found.bad) > _NAMED else ""
        told = f"{key}: {len(found.bad)} pictures cannot be used: {shown}{more}"
        if recipe.skip_bad:
            report.notes.append(f"{told}; they will be passed over")
        else:
            report.problems.append(f"{told}; mend or remove them, or pass over them with --skip-bad")
    if wanted_captions and found.uncaptioned == found.pictures:
        report.problems.append(
            f"{key}: no picture has a caption, and without them there is nothing to learn; write a .txt beside each"
        )
    elif wanted_captions and found.uncaptioned:
        report.notes.append(f"{key}: {found.uncaptioned} of {found.pictures} pictures looked at have no caption")


def _try_out(recipe: Recipe, folder: Path, report: CheckReport, *, device: str, workers: int | None) -> None:
    """Makes the networks, measures a step's memory and, if that suffices, times some steps."""
    world = World(device, trackers=recipe.trackers, logs=folder / "logs")  # nothing starts the trackers
    task: Task | None = None
    try:
        report.device = str(world.device)
        made = spare_workers(world) if workers is None else workers
        tried = _lightened(recipe, folder, report)
        task = named_task(tried, folder, world, made)
        if report.problems:
            return
        report.notes += task.notes
        report.parameters = parameters(task)
        feeds = _feeds(task)
        epoch = max((feed.epoch_steps for feed in feeds), default=None) if _ends(recipe) else None
        report.epochs = None if epoch is None else recipe.steps / epoch
        for feed in feeds:
            if len(feed.dataset) < recipe.batch:
                report.notes.append(
                    f"batch={recipe.batch} is more than the {len(feed.dataset)} pictures: some come twice a step"
                )
        trainer = Trainer(short(tried, 0), task, folder / "memory", world=world, log=_unheard)
        report.memory = memory_of(trainer, step=_heaviest(recipe))
        if report.memory.available is not None and report.memory.total > report.memory.available:
            report.problems.append(
                f"it needs about {gigabytes(report.memory.total)}, and this device has "
                f"{gigabytes(report.memory.available)}; try a smaller batch, accumulate or gradient_checkpointing"
            )
            return
        report.time, report.checkpoint = _timed(recipe, tried, task, folder, world, made, epoch)
    finally:
        if task is not None:
            task.close()
        world.close()


def _timed(
    recipe: Recipe, tried: Recipe, task: Task, folder: Path, world: World, workers: int, epoch: int | None
) -> tuple[Timing, int]:
    made: list[Path] = []

    def make(cut: Recipe) -> Trainer:
        made.append(folder / f"time-{len(made)}")
        return Trainer(cut, task, made[-1], world=world, workers=workers, log=_unheard)

    timing = time_of(make, tried, _phases(recipe, epoch))
    return timing, (made[-1] / "checkpoint.pt").stat().st_size


def _phases(recipe: Recipe, epoch: int | None) -> list[tuple[int, float]]:
    """Steps that are timed, and the part of the run that takes as long.

    An adversary joins in late; latents and texts that are kept are computed in the first epoch only.
    """
    train = recipe.train
    if isinstance(train, VAERecipe) and train.adversary is not None and 0 < train.adversary.start < recipe.steps:
        before = train.adversary.start / recipe.steps
        return [(0, before), (train.adversary.start, 1 - before)]
    keeps = isinstance(train, FinetuneRecipe) or (isinstance(train, DiffusionRecipe) and train.cache is not None)
    if keeps and epoch is not None and epoch < recipe.steps:
        return [(0, epoch / recipe.steps), (0, 1 - epoch / recipe.steps)]  # the second time they are kept
    return [(0, 1.0)]


def _lightened(recipe: Recipe, folder: Path, report: CheckReport) -> Recipe:
    """The recipe with less work before its first step, and no folder but this one to write into."""
    train: Any = recipe.train
    if isinstance(train, DenoiserRecipe):
        report.notes.append(
            f"before each pass over {train.window} scenes these are drawn and encoded, which the time leaves out"
        )
        train = train.model_copy(update={"window": recipe.batch, "passes": recipe.steps})
    elif isinstance(train, DiffusionRecipe) and train.cache is not None:
        report.notes.append(f"as if nothing were kept in the cache {train.cache} yet")
        train = train.model_copy(update={"cache": str(folder / "cache")})
    elif isinstance(train, FinetuneRecipe) and train.prior is not None:
        fewer = min(_FIRST_PAINTED, train.prior.pictures)
        report.notes.append(f"{train.prior.pictures} class pictures are painted first, which the time leaves out")
        train = train.model_copy(update={"prior": train.prior.model_copy(update={"pictures": fewer})})
    return recipe.model_copy(update={"train": train})


def _heaviest(recipe: Recipe) -> int:
    """A step whose loss has all its parts: late, and not one of those at half size."""
    every = recipe.train.half_scale_every if isinstance(recipe.train, VAERecipe) else 0
    last = recipe.steps - 1
    return last - 1 if every > 1 and last % every == 0 and last else last


def _feeds(task: Task) -> list[Feed]:
    """What the task's pictures come from; those that it paints itself do not count."""
    holders = [task, getattr(task, "pictures", None)]
    found = [getattr(holder, "feed", None) for holder in holders] + [getattr(task, "feeds", {}).get("")]
    return [feed for feed in found if isinstance(feed, Feed)]


def _ends(recipe: Recipe) -> bool:
    """Whether there are so many pictures and no more."""
    data = getattr(recipe.train, "data", None)
    return data is not None and (getattr(data, "kind", "") != "scenes" or data.count is not None)


def gigabytes(size: int) -> str:
    """Bytes as a person says them: "640 MB", "2.5 GB"."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(1, round(size / 1e6))} MB"


def _without(text: str, folder: str) -> str:
    """A message without the temporary folder's name."""
    return text.replace(folder + os.sep, "").replace(folder, "the run's folder")


def _unheard(_: str) -> None:
    """Says nothing."""
