"""What `wordbrush train --check` prints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from wordbrush.cli import console

if TYPE_CHECKING:
    from wordbrush.training.check import CheckReport


def show_check(
    recipe: Path, *, device: str, workers: int | None, skip_bad: bool, every_picture: bool, as_json: bool
) -> None:
    """Tries a recipe out and says what was found; exit code 2 when it cannot be carried out."""
    from wordbrush.training.check import LOOKED_AT, check

    pictures = None if every_picture else LOOKED_AT
    report = check(recipe, device=device, workers=workers, skip_bad=skip_bad, pictures=pictures)
    if as_json:
        console.json_result(report.to_dict())
    else:
        for line in lines(report):
            console.result(line)
        for note in report.notes:
            console.note(note)
        for problem in report.problems:
            console.error(problem)
    if report.problems:
        raise typer.Exit(2)


def lines(report: CheckReport) -> Iterator[str]:
    """The report for people, without its notes and problems."""
    from wordbrush.training.check import gigabytes

    epochs = "" if report.epochs is None else f", {report.epochs:.3g} times all pictures"
    steps = f": {report.steps} steps of {report.batch}{epochs}" if report.steps else ""
    yield f"{report.recipe}{steps}"
    for key, data in report.data.items():
        yield f"  {key}: {data.examples:,} in all"
        yield from (f"    {line}" for line in data.lines())
    for name, (trained, still) in report.parameters.items():
        parts = [f"{count:,} {what}" for count, what in ((trained, "trained"), (still, "not trained")) if count]
        yield f"  {name}: {', '.join(parts)} weights"
    if (memory := report.memory) is not None:
        total = "" if memory.available is None else f" of {gigabytes(memory.available)}"
        kinds = ("weights", "gradients", "optimiser", "averages", "step")
        each = ", ".join(f"{part} {gigabytes(getattr(memory, part))}" for part in kinds)
        yield (
            f"  memory on {report.device}: about {gigabytes(memory.total)}{total}: {each} (measured on 1 and "
            "2 rows); Python and the libraries come on top"
        )
    if (time := report.time) is not None:
        yield (
            f"  time on {report.device}: about {console.duration(time.total)}: {time.step:.3g} s a step, "
            f"{report.batch / time.step:.3g} pictures a second, {time.waiting:.0%} of it waiting for data (measured on "
            f"{time.steps} steps); validation, samples and checkpoints come on top"
        )
    if report.checkpoint is not None:
        yield f"  disk: {gigabytes(report.checkpoint)} a checkpoint, twice that while one is written"
    if not report.problems:
        yield "nothing is wrong with it"
