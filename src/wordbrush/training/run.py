"""From a recipe file to a finished model folder."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from wordbrush.errors import ModelFileError, RequestError, WordbrushError
from wordbrush.training.data_recipe import skipping
from wordbrush.training.distributed import World
from wordbrush.training.ema import gamma_of
from wordbrush.training.feed import SKIPPED, read_skipped
from wordbrush.training.finetune.recipes import DreamBoothRecipe, FullRecipe, InversionRecipe, LoraRecipe
from wordbrush.training.idle import idle
from wordbrush.training.loop import Trainer, check_possible
from wordbrush.training.progress import Journal
from wordbrush.training.recipe import BuildRecipe, Recipe, read_recipe
from wordbrush.training.strict import Strict
from wordbrush.training.task import Stopped, Task
from wordbrush.training.tasks.diffusion_recipe import DiffusionRecipe
from wordbrush.training.tasks.recipes import (
    AssembleRecipe,
    CLIPRecipe,
    DenoiserRecipe,
    ExpanderRecipe,
    InspectorRecipe,
    TokenizerRecipe,
    UpscalerRecipe,
    VAERecipe,
)

# Keys under `train` that name folders which other recipes make.
_PARTS = frozenset({"vae", "clip", "tokenizer", "text_encoder", "start", "decoder_of"})


def build_task(
    recipe: Recipe,
    folder: Path,
    device: torch.device | None = None,
    *,
    workers: int = 0,
    stop: threading.Event | None = None,
    log: Callable[[str], None] | None = None,
) -> Task:
    """The task of a recipe, its networks freshly initialised.

    `folder` is where it may keep what it computes once; `workers` processes draw its data, where a task can use them.
    What takes long before the first step is told to `log`; it raises Stopped once `stop` is set.
    """
    task = _built(recipe, folder, device, workers=workers, stop=stop, log=log)
    task.notes = [*task.notes, *idle(recipe)]
    return task


def _built(
    recipe: Recipe,
    folder: Path,
    device: torch.device | None,
    *,
    workers: int,
    stop: threading.Event | None,
    log: Callable[[str], None] | None,
) -> Task:
    match recipe.train:
        case VAERecipe() as train:
            from wordbrush.training.tasks.vae import VAETask

            return VAETask(recipe, train, folder)
        case CLIPRecipe() as train:
            from wordbrush.training.tasks.clip import CLIPTask

            return CLIPTask(recipe, train, folder)
        case DenoiserRecipe() as train:
            from wordbrush.training.tasks.denoiser import DenoiserTask

            return DenoiserTask(recipe, train, folder, device, workers=workers)
        case DiffusionRecipe() as train:
            from wordbrush.training.tasks.diffusion import DiffusionTask

            return DiffusionTask(recipe, train, folder)
        case InspectorRecipe() as train:
            from wordbrush.training.tasks.inspector import InspectorTask

            return InspectorTask(recipe, train)
        case UpscalerRecipe() as train:
            from wordbrush.training.tasks.upscaler import UpscalerTask

            return UpscalerTask(recipe, train)
        case ExpanderRecipe() as train:
            from wordbrush.training.tasks.expander import ExpanderTask

            return ExpanderTask(recipe, train, folder)
        case LoraRecipe() | DreamBoothRecipe() | InversionRecipe() | FullRecipe() as train:
            from wordbrush.training.finetune.task import FinetuneTask

            return FinetuneTask(recipe, train, folder, device, stop=stop, log=log)


def build(recipe: BuildRecipe, folder: Path) -> Path:
    """Carries out a recipe that trains nothing."""
    check_folder(folder)
    match recipe.build:
        case TokenizerRecipe() as made:
            from wordbrush.training.tokenizer import write_tokenizer

            write_tokenizer(folder, captions=made.captions, size=made.size, max_length=made.max_length)
        case AssembleRecipe() as made:
            from wordbrush.training.assemble import assemble

            assemble(made, folder)
    return folder


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What of a run does not decide its weights, but for the average that is exported.

    Attributes:
        device: "auto", or a name of torch's; ignored but for its kind where torchrun started several processes.
        workers: processes that make data; none given, as many as there are cores to spare where a GPU trains, and none
            on a CPU, whose cores train.
        compiled: whether the networks are compiled first, even if the recipe does not say so.
        until: seconds after which the run ends early, saved and exported.
        skip_bad: pass over pictures that cannot be used, as `skip_bad` in the recipe's data does, and list them.
        ema_length: width σ_rel of the power-function average to export in place of the plain one.
    """

    device: str = "auto"
    workers: int | None = None
    compiled: bool = False
    until: float | None = None
    skip_bad: bool = False
    ema_length: float | None = None


def train(
    path: Path,
    folder: Path,
    options: RunOptions | None = None,
    *,
    stop: threading.Event | None = None,
    log: Callable[[str], None] = print,
) -> Path:
    """Carries out a recipe file into `folder`; the same call again resumes. See `run_recipe`."""
    recipe = read_recipe(path)
    if isinstance(recipe, BuildRecipe):
        given = options or RunOptions()
        for name, said in (("--skip-bad", given.skip_bad), ("--ema-length", given.ema_length is not None)):
            if said:
                raise RequestError(f"{name} is for recipes that train; {path} trains nothing, so leave it out")
        return build(recipe, folder)
    return run_recipe(recipe, folder, options, stop=stop, log=log)


def check_folder(folder: Path) -> None:
    """Raises RequestError where a run cannot have its folder: a file has its name, or that of one above it."""
    there = next((place for place in (folder, *folder.parents) if place.exists()), folder)
    if there.exists() and not there.is_dir():
        raise RequestError(f"{there} is a file, and a run needs a folder; give --output another name")


def run_recipe(
    recipe: Recipe,
    folder: Path,
    options: RunOptions | None = None,
    *,
    stop: threading.Event | None = None,
    log: Callable[[str], None] = print,
) -> Path:
    """Trains into `folder`; the same call again resumes. It ends early, saved and exported, once `stop` is set.

    Started by torchrun, each process calls this; the main one logs, writes and exports.

    Raises:
        RequestError: the recipe is wrong, a folder that it names is missing, or there is no such device.
        WorkFailed: the loss is no longer a number, a file could not be written, or another process died.
    """
    options = options or RunOptions()
    check_folder(folder)
    if options.ema_length is not None:
        gamma_of(options.ema_length)  # before hours of training: is there such an average?
        if not recipe.ema_lengths:
            raise RequestError(
                f"--ema-length: the recipe {recipe.name} keeps no power-function averages; give it "
                "`ema_lengths: [0.05, 0.1]` and train anew"
            )
    if options.skip_bad:
        recipe = recipe.model_copy(update={"train": skipping(recipe.train)})
    world = World(options.device, trackers=recipe.trackers, logs=folder / "logs")
    try:
        _run(recipe, folder, options, world, stop, log if world.main else _unheard)
        world.wait()  # nobody leaves while the main process exports: torchrun would take it for a failure
    except BaseException:
        world.end_trackers()  # the other processes are not waited for: they may wait for this one
        raise
    world.close()
    return folder


def _run(
    recipe: Recipe,
    folder: Path,
    options: RunOptions,
    world: World,
    stop: threading.Event | None,
    log: Callable[[str], None],
) -> None:
    workers = spare_workers(world) if options.workers is None else options.workers
    check_possible(recipe, folder, world)
    try:
        task = named_task(recipe, folder, world, workers, stop=stop, log=log)
    except Stopped:
        return
    for note in task.notes:
        log(f"note: {note}")
    try:
        trainer = Trainer(recipe, task, folder, world=world, workers=workers, compiled=options.compiled, log=log)
        if world.main:
            _journalled(trainer, options, stop)
        else:
            for _ in trainer.run(options.until, stop):
                pass
    finally:
        task.close()
    averaged = trainer.averaged
    if world.main:
        skipped = read_skipped(folder)
        if skipped:
            where = folder / SKIPPED
            trainer.log(f"pictures passed over because they cannot be used: {len(skipped)}; {where} lists them")
        if options.ema_length is not None and not trainer.snapshots.steps():
            log(f"stopped at step {trainer.step}, before power-function averages were kept: the plain one is exported")
        elif options.ema_length is not None:
            averaged = trainer.snapshots.average(options.ema_length, averaged)
        task.export(folder, averaged)


def _journalled(trainer: Trainer, options: RunOptions, stop: threading.Event | None) -> None:
    """Trains to the end, and shows and writes what there is to tell."""
    with Journal(trainer.recipe, trainer.folder, trainer.world, first=trainer.step, log=trainer.log) as journal:
        trainer.on_step = journal.step
        for report in trainer.run(options.until, stop):
            journal.take(report, trainer.seconds)


def spare_workers(world: World) -> int:
    """Processes that make data, unless told: as many as a GPU leaves cores; none on a CPU, whose cores train."""
    return max(1, ((os.cpu_count() or 1) - 2) // world.local_size) if world.device.type == "cuda" else 0


def named_task(
    recipe: Recipe,
    folder: Path,
    world: World,
    workers: int,
    *,
    stop: threading.Event | None = None,
    log: Callable[[str], None] | None = None,
) -> Task:
    """As `build_task`, and says what of the recipe is wrong.

    Raises:
        RequestError: a folder that it names is missing, or there is no such network.
    """
    try:
        return build_task(recipe, folder, world.device, workers=workers, stop=stop, log=log)
    except FileNotFoundError as error:
        missing = error.filename or str(error).partition(": ")[2]  # safetensors says it in words alone
        raise RequestError(f"{missing} does not exist; run the recipe that makes it first") from error
    except WordbrushError as error:
        unmade = _unmade(recipe.train, str(error)) if isinstance(error, ModelFileError) else None
        if unmade is None:
            raise
        raise RequestError(f"{unmade} does not exist; run the recipe that makes it first") from error
    except (ValueError, TypeError) as error:  # a network's settings: the recipe's own were checked when it was read
        raise RequestError(f"the recipe {recipe.name} is wrong in `train`: {error}") from error


def _unmade(table: Strict, told: str) -> str | None:
    """The folder of another recipe's making that an error tells of, if it is not there."""
    for key, value in table:
        if isinstance(value, Strict):
            found = _unmade(value, told)
        else:
            found = value if key in _PARTS and isinstance(value, str) and value in told else None
        if found is not None and not Path(found).exists():
            return found
    return None


def _unheard(line: str) -> None:
    """What a process says that is not the main one."""
