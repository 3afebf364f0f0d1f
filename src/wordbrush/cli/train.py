"""`wordbrush train`: carry out a recipe; the same command again resumes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from wordbrush.cli import console
from wordbrush.cli.checked import show_check
from wordbrush.cli.options import AsJson, Device
from wordbrush.errors import RequestError

EXAMPLE = "Example: wordbrush train recipes/vae.yaml --output runs/vae"


def train(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe; recipes/ holds those of the embedded model.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the checkpoint and the finished model.", show_default="none"),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes", min=0.0, help="Stop after this long; the same command goes on later.", show_default="no limit"
        ),
    ] = None,
    device: Device = "auto",
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=0, help="Processes that make data.", show_default="none on a CPU"),
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the networks first: a minute, then faster steps on a GPU.")
    ] = False,
    skip_bad: Annotated[
        bool,
        typer.Option("--skip-bad", help="Pass over pictures that cannot be used; FOLDER/skipped.jsonl lists them."),
    ] = False,
    ema_length: Annotated[
        float | None,
        typer.Option(
            "--ema-length",
            min=0.0,
            help="Export the weights averaged over this part of the run, as 0.1; for recipes with ema_lengths.",
            show_default="the plain average",
        ),
    ] = None,
    try_out: Annotated[
        bool, typer.Option("--check", help="Only look whether it would run, and what it will take; exit code 2 if not.")
    ] = False,
    every_picture: Annotated[
        bool, typer.Option("--every-picture", help="With --check: read every picture, rather than some hundred.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Trains what a recipe describes. Stop it at any moment: the same command again goes on where it was.

    With --check it trains nothing and writes nothing: it says what is wrong with the recipe and its data, and how much
    memory and time the run will take.

    Several processes, on one machine or many, train together when torchrun starts them: torchrun --nproc-per-node 2 -m
    wordbrush train RECIPE -o FOLDER.
    """
    if try_out:
        show_check(
            recipe, device=device, workers=workers, skip_bad=skip_bad, every_picture=every_picture, as_json=as_json
        )
        return
    if output is None:
        raise RequestError("train needs --output FOLDER, where the checkpoint and the finished model go")
    for name, given in (("--json", as_json), ("--every-picture", every_picture)):
        if given:
            raise RequestError(f"{name} goes with --check")
    from wordbrush.data.dataset import BadExample
    from wordbrush.training.run import RunOptions
    from wordbrush.training.run import train as run

    until = None if minutes is None else 60 * minutes
    options = RunOptions(
        device=device, workers=workers, compiled=compiled, until=until, skip_bad=skip_bad, ema_length=ema_length
    )
    try:
        stoppable(lambda stop: run(recipe, output, options, stop=stop, log=lambda line: typer.echo(line, err=True)))
    except BadExample as error:
        raise RequestError(f"{error}; mend or remove it, or pass over such with --skip-bad") from error


def stoppable(run: Callable[[threading.Event], Path]) -> None:
    """Carries out a run that ends early, saved, on Ctrl-C or SIGTERM, and prints the folder that it gives."""
    from wordbrush.runtime.memory import keep_freed_memory
    from wordbrush.training.distributed import leads

    keep_freed_memory()
    stop = threading.Event()
    asked: set[int] = set()

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        del frame
        # Asked twice: at once, leaving what the last checkpoint holds. torchrun sends SIGTERM after Ctrl-C's SIGINT.
        if number in asked:
            raise KeyboardInterrupt
        asked.add(number)
        stop.set()

    before = {number: signal.signal(number, ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        folder = run(stop)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if leads():
        console.result(str(folder))
    if stop.is_set():
        if leads():
            console.note("stopped; the same command goes on from here")
        raise typer.Exit(130)  # as a shell counts Ctrl-C: what was to come after a finished run should not


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog=EXAMPLE)(train)
