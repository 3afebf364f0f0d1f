"""`wordbrush train`: carry out a recipe; the same command again resumes."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from wordbrush.cli import console
from wordbrush.cli.options import Device

EXAMPLE = "Example: wordbrush train recipes/vae.yaml --output runs/vae"


def train(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe; recipes/ holds those of the embedded model.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the checkpoint and the finished model.")],
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes", min=0.0, help="Stop after this long; the same command goes on later.", show_default="no limit"
        ),
    ] = None,
    device: Device = "auto",
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=0, help="Processes that draw data.", show_default="none on a CPU"),
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the networks first: a minute, then faster steps on a GPU.")
    ] = False,
) -> None:
    """Trains what a recipe describes. Stop it at any moment: the same command again goes on where it was."""
    from wordbrush.training.run import train as run

    stop = threading.Event()

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        if stop.is_set():  # asked twice: at once, leaving what the last checkpoint holds
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        until = None if minutes is None else 60 * minutes
        folder = run(
            recipe,
            output,
            device=device,
            workers=workers,
            compiled=compiled,
            until=until,
            stop=stop,
            log=lambda line: typer.echo(line, err=True),
        )
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    console.result(str(folder))
    if stop.is_set():
        console.note("stopped; the same command goes on from here")
        raise typer.Exit(130)  # as a shell counts Ctrl-C: what was to come after a finished run should not


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog=EXAMPLE)(train)
