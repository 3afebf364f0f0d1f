"""What a run shows and writes down: a bar or lines, curves as CSV files, sample sheets, accelerate's trackers."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Callable, Mapping
from io import BytesIO, StringIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from PIL import Image

from wordbrush.errors import WorkFailed
from wordbrush.metadata import write_whole
from wordbrush.sheets import contact_sheet
from wordbrush.training.distributed import World
from wordbrush.training.loop import Report
from wordbrush.training.recipe import Recipe

if TYPE_CHECKING:
    from rich.progress import Progress


class Curve:
    """The figures of a run as a CSV file, a row each time they are logged."""

    def __init__(self, path: Path, *, upto: int) -> None:
        """`upto`: the step a run resumes from; rows after it are dropped, since they are about to be made again."""
        self.path = path
        self.columns: list[str] = []
        if not path.exists():
            return
        with path.open(newline="", encoding="utf-8") as file:
            head, *rows = [*csv.reader(file)] or [[]]
        kept = [row for row in rows if len(row) == len(head) and row[0].isdecimal() and int(row[0]) <= upto]
        if not kept:
            path.unlink()
            return
        self.columns = head
        text = StringIO()
        csv.writer(text, lineterminator="\n").writerows([head, *kept])
        write_whole(path, text.getvalue().encode())

    def add(self, row: Mapping[str, object]) -> None:
        """Appends a row; the first one gives the columns their names. Raises WorkFailed when it cannot."""
        new = not self.columns
        self.columns = self.columns or list(row)
        try:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, self.columns, lineterminator="\n", extrasaction="ignore")
                if new:
                    writer.writeheader()
                writer.writerow(row)
        except OSError as error:
            raise WorkFailed(
                f"{self.path} could not be written ({error.strerror}); the last checkpoint is kept"
            ) from error


class Journal:
    """Takes in a run's reports. Only the main process keeps one; closed, it ends its bar.

    In the run's folder: `curve.csv`, `validation.csv`, `samples/step-….png`, and `logs/` of the trackers.
    """

    def __init__(self, recipe: Recipe, folder: Path, world: World, *, first: int, log: Callable[[str], None]) -> None:
        """`first`: the step that the run goes on from."""
        self.recipe, self.folder, self.world, self.log = recipe, folder, world, log
        self.first, self.started = first, time.monotonic()
        self.curve = Curve(folder / "curve.csv", upto=first)
        self.held_out = Curve(folder / "validation.csv", upto=first)
        self.accelerator = world.accelerator if recipe.trackers else None
        if self.accelerator is not None:
            # TensorBoard hides what an interrupted run logged after the step that is gone on from.
            purge = {"tensorboard": {"purge_step": first + 1}} if first else {}
            self.accelerator.init_trackers(recipe.name, init_kwargs=purge)
            self.accelerator.log({"recipe": f"```json\n{recipe.model_dump_json(indent=2)}\n```"}, step=first)
        self.bar = _Bar(recipe, first) if sys.stderr.isatty() else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()

    def step(self, step: int) -> None:
        """After each step: the bar moves."""
        if self.bar is not None:
            self.bar.move(step, self._rate(step))

    def _rate(self, step: int) -> float:
        """Rows of data a second since this process began to train."""
        return (step - self.first) * self.recipe.batch / max(time.monotonic() - self.started, 1e-9)

    def take(self, report: Report, seconds: float) -> None:
        """Shows and writes a report; `seconds`: what the run has trained so far, earlier processes included."""
        if report.figures:
            self._figures(report.step, report.figures, seconds)
        if report.validation:
            self.held_out.add({"step": report.step} | {k: round(v, 6) for k, v in report.validation.items()})
            shown = "  ".join(f"{key} {value:.4f}" for key, value in report.validation.items())
            self.log(f"{self.recipe.name}: step {report.step}, held-out  {shown}")
            self._track({f"validation/{key}": value for key, value in report.validation.items()}, report.step)
        if report.samples:
            self._samples(report)

    def _figures(self, step: int, figures: Mapping[str, float], seconds: float) -> None:
        rate = self._rate(step)
        self.curve.add({"step": step, "seconds": round(seconds)} | {k: round(v, 5) for k, v in figures.items()})
        self._track({f"train/{key}": value for key, value in figures.items()} | {"train/rows_per_second": rate}, step)
        if self.bar is not None:
            self.bar.say(figures)
            return
        left = (self.recipe.steps - step) * self.recipe.batch / rate
        shown = "  ".join(f"{key} {value:.4f}" for key, value in figures.items() if key != "wait")
        self.log(
            f"{self.recipe.name}: step {step}/{self.recipe.steps}  {shown}  waiting for data {figures['wait']:.1%}  "
            f"{rate:.1f} pictures/s  {left / 60:.0f} min left"
        )

    def _track(self, values: Mapping[str, float], step: int) -> None:
        if self.accelerator is not None:
            self.accelerator.log(dict(values), step=step)

    def _samples(self, report: Report) -> None:
        captions, pictures = zip(*report.samples, strict=True)
        sheet = contact_sheet(pictures, captions)
        data = BytesIO()
        sheet.save(data, "PNG")
        folder = self.folder / "samples"
        folder.mkdir(exist_ok=True)
        path = write_whole(folder / f"step-{report.step:06d}.png", data.getvalue())
        self.log(f"{self.recipe.name}: step {report.step}, samples in {path}")
        if self.accelerator is not None:
            for tracker in self.accelerator.trackers:
                _show(tracker, sheet, report.step)


def _show(tracker: object, sheet: Image.Image, step: int) -> None:
    """Logs a picture with the trackers that take pictures."""
    log_images = getattr(tracker, "log_images", None)
    if log_images is None:
        return
    shape = {"dataformats": "NHWC"} if getattr(tracker, "name", "") == "tensorboard" else {}
    log_images({"samples": np.asarray(sheet)[None]}, step=step, **shape)


class _Bar:
    """Steps done, rows a second, loss and what is left, on a terminal's last line."""

    def __init__(self, recipe: Recipe, first: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.1f} pictures/s"), TextColumn("loss {task.fields[loss]}"),
            TextColumn("waiting for data {task.fields[wait]}"), TimeRemainingColumn(compact=True), TextColumn("left"),
        )  # fmt: skip
        self.progress: Progress = Progress(*columns, console=Console(stderr=True))
        self.task = self.progress.add_task(
            recipe.name, total=recipe.steps, completed=first, rate=0.0, loss="…", wait="…"
        )
        self.progress.start()

    def move(self, step: int, rate: float) -> None:
        self.progress.update(self.task, completed=step, rate=rate)

    def say(self, figures: Mapping[str, float]) -> None:
        self.progress.update(self.task, loss=f"{figures['loss']:.4f}", wait=f"{figures['wait']:.1%}")

    def close(self) -> None:
        self.progress.stop()
