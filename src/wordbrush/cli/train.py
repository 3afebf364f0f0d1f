"""`wordbrush train`: carry out a recipe; the same command again resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wordbrush.cli import console

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
) -> None:
    """Trains what a recipe describes. Stop it at any moment: the same command again goes on where it was."""
    from wordbrush.training.run import train as run

    folder = run(
        recipe, output, until=None if minutes is None else 60 * minutes, log=lambda line: typer.echo(line, err=True)
    )
    console.result(f"{folder}")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog=EXAMPLE)(train)
