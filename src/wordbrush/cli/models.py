"""`wordbrush models`: what a model is, without loading it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from wordbrush.cli import console, options

Place = Annotated[
    str | None, typer.Argument(metavar="PATH", help="A diffusers folder.", show_default="the embedded model")
]


def register(app: typer.Typer) -> None:
    """Adds the command group."""
    group = console.command_group(app, "models", "See what a model is.")
    group.command(epilog="Example: wordbrush models inspect --json")(inspect)


def inspect(path: Place = None, as_json: options.AsJson = False) -> None:
    """Say what a model is: parts, parameters, number formats, prediction type. Only headers are read."""
    from wordbrush.formats.inspect import inspect_folder
    from wordbrush.formats.open import embedded_folder

    content = inspect_folder(embedded_folder() if path is None else Path(path))
    if as_json:
        console.json_result(content)
        return
    for line in _lines(content):
        console.result(line)


def _lines(content: dict[str, Any], indent: str = "") -> list[str]:
    lines = []
    for key, value in content.items():
        name = key.replace("_", " ")
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", *_lines(value, indent + "  ")]
        else:
            shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
            lines.append(f"{indent}{name}: {shown}")
    return lines
