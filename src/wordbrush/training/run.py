"""From a recipe file to a finished model folder."""

from __future__ import annotations

import csv
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from wordbrush.errors import RequestError
from wordbrush.runtime.policy import Runtime
from wordbrush.training.loop import Trainer
from wordbrush.training.recipe import BuildRecipe, Recipe, read_recipe
from wordbrush.training.task import Task
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


def build_task(recipe: Recipe, folder: Path, device: torch.device | None = None, *, workers: int = 0) -> Task:
    """The task of a recipe, its networks freshly initialised.

    `folder` is where it may keep what it computes once; `workers` processes draw its data, where a task can use them.
    """
    match recipe.train:
        case VAERecipe() as train:
            from wordbrush.training.tasks.vae import VAETask

            return VAETask(recipe, train)
        case CLIPRecipe() as train:
            from wordbrush.training.tasks.clip import CLIPTask

            return CLIPTask(recipe, train)
        case DenoiserRecipe() as train:
            from wordbrush.training.tasks.denoiser import DenoiserTask

            return DenoiserTask(recipe, train, folder, device, workers=workers)
        case InspectorRecipe() as train:
            from wordbrush.training.tasks.inspector import InspectorTask

            return InspectorTask(recipe, train)
        case UpscalerRecipe() as train:
            from wordbrush.training.tasks.upscaler import UpscalerTask

            return UpscalerTask(recipe, train)
        case ExpanderRecipe() as train:
            from wordbrush.training.tasks.expander import ExpanderTask

            return ExpanderTask(recipe, train, folder)


def build(recipe: BuildRecipe, folder: Path) -> Path:
    """Carries out a recipe that trains nothing."""
    match recipe.build:
        case TokenizerRecipe() as made:
            from wordbrush.training.tokenizer import write_tokenizer

            write_tokenizer(folder, captions=made.captions, size=made.size, max_length=made.max_length)
        case AssembleRecipe() as made:
            from wordbrush.training.assemble import assemble

            assemble(made, folder)
    return folder


def train(
    path: Path,
    folder: Path,
    *,
    device: str = "auto",
    workers: int | None = None,
    compiled: bool = False,
    until: float | None = None,
    stop: threading.Event | None = None,
    log: Callable[[str], None] = print,
) -> Path:
    """Carries out a recipe into `folder`; the same call again resumes.

    It ends early, saved and exported, after `until` seconds or once `stop` is set. `workers`: processes that draw data;
    none given, as many as there are cores to spare where a GPU trains, and none on a CPU, whose cores train.

    Raises:
        RequestError: the recipe is wrong, a folder that it names is missing, or there is no such device.
        WorkFailed: the loss is no longer a number, a checkpoint could not be written, or a worker process died.
    """
    recipe = read_recipe(path)
    if isinstance(recipe, BuildRecipe):
        return build(recipe, folder)
    place = Runtime.choose(device).device
    try:
        spare = max(1, (os.cpu_count() or 1) - 2) if place.type == "cuda" else 0
        task = build_task(recipe, folder, place, workers=spare if workers is None else workers)
    except FileNotFoundError as error:
        missing = error.filename or str(error).partition(": ")[2]  # safetensors says it in words alone
        raise RequestError(f"{missing} does not exist; run the recipe that makes it first") from error
    try:
        trainer = Trainer(recipe, task, folder, device=place, compiled=compiled, log=log)
        curve = Curve(folder / "curve.csv", upto=trainer.step)
        started, first = time.monotonic(), trainer.step
        for step, figures in trainer.run(until, stop):
            rate = (step - first) * recipe.batch / (time.monotonic() - started)
            left = (recipe.steps - step) * recipe.batch / rate
            shown = "  ".join(f"{key} {value:.4f}" for key, value in figures.items())
            log(f"{recipe.name}: step {step}/{recipe.steps}  {shown}  {rate:.1f} pictures/s  {left / 60:.0f} min left")
            curve.add({"step": step, "seconds": round(trainer.seconds)} | {k: round(v, 5) for k, v in figures.items()})
    finally:
        task.close()
    trainer.task.export(folder, trainer.averaged)
    return folder


class Curve:
    """The figures of a run as a CSV file, a row each time they are logged."""

    def __init__(self, path: Path, *, upto: int) -> None:
        """`upto`: the step a run resumes from; rows after it are dropped, since they are about to be made again."""
        self.path = path
        rows: list[dict[str, str]] = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) <= upto]
        path.unlink(missing_ok=True)
        for row in rows:
            self.add(row)

    def add(self, row: Mapping[str, object]) -> None:
        """Appends a row; the first one gives the columns their names."""
        new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row), lineterminator="\n", extrasaction="ignore")
            if new:
                writer.writeheader()
            writer.writerow(row)
