"""What all commands share. Results go to standard output; notes, progress and errors go to standard error."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import typer

Advance = Callable[[], None]

# Seconds between the lines of a log.
LOG_INTERVAL = 10.0

# What a terminal would obey: a file's name or metadata may hold anything. Tabs and line ends stay.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))}


def command_group(app: typer.Typer, name: str, about: str) -> typer.Typer:
    """A group of commands, `wordbrush NAME COMMAND`, to add commands to."""
    group = typer.Typer(help=about, no_args_is_help=True, rich_markup_mode=None)
    group.callback(help=about)(lambda: None)  # with a single command typer would drop its name
    app.add_typer(group, name=name)
    return group


def result(text: str) -> None:
    """A line of the result."""
    typer.echo(_printable(text))


def json_result(content: Mapping[str, Any]) -> None:
    """The machine-readable result: one JSON object, the only thing on standard output."""
    text = json.dumps(content, ensure_ascii=False, indent=2)
    typer.echo(text if _printable(text) == text else json.dumps(content, indent=2))


def _printable(text: str) -> str:
    """The text with escapes for what a terminal would obey, and for what standard output has no letters for.

    The latter are names that are not UTF-8, and other scripts where the system's encoding is an old one.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.translate(_CONTROLS).encode(encoding, "backslashreplace").decode(encoding)


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a table, columns lined up by spaces."""
    rows = [[" ".join(cell.splitlines()) for cell in row] for row in rows]  # a file's name may have line ends
    widths = [max(len(row[column]) for row in (heading, *rows)) for column in range(len(heading))]
    for row in (heading, *rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def note(text: str) -> None:
    """Something the user should know."""
    typer.echo(f"note: {text.translate(_CONTROLS)}", err=True)


def error(text: str) -> None:
    """Why the command ends."""
    typer.echo(f"error: {text.translate(_CONTROLS)}", err=True)


@contextmanager
def progress(title: str, total: int) -> Iterator[Advance]:
    """Gives `advance`, to be called after each of `total` steps: a bar on a terminal, a line now and then in a log."""
    if sys.stderr.isatty():
        with _bar(title, total) as advance:
            yield advance
    else:
        yield _log_lines(title, total)


@contextmanager
def _bar(title: str, total: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps, about"),
        TimeRemainingColumn(compact=True), TextColumn("left,"), TimeElapsedColumn(), TextColumn("so far"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)


def download_progress() -> dict[str, Any]:
    """What huggingface_hub is to show progress with: its own bars on a terminal, a line now and then in a log."""
    if sys.stderr.isatty():
        return {}
    from io import StringIO

    from huggingface_hub.utils.tqdm import tqdm

    class Lines(tqdm):
        said = 0.0

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "file": StringIO()})

        def display(self, *_: Any, **__: Any) -> None:
            now = time.monotonic()
            if self.unit == "B" and self.n and self.total and now - Lines.said >= LOG_INTERVAL:
                Lines.said = now
                typer.echo(f"downloaded {self.n / 1e6:,.0f} of {self.total / 1e6:,.0f} MB", err=True)

    return {"tqdm_class": Lines}


def _log_lines(title: str, total: int) -> Advance:
    last = time.monotonic()
    done, first = 0, 0.0

    def advance() -> None:
        nonlocal done, first, last
        done += 1
        now = time.monotonic()
        if done == 1:
            first = now  # the first step is not like the others: it warms everything up, and tells nothing of the rest
        if now - last >= LOG_INTERVAL and done < total:
            last = now
            left = f", about {duration((now - first) / (done - 1) * (total - done))} left" if done > 1 else ""
            typer.echo(f"{title}: step {done} of {total}{left}", err=True)

    return advance


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Puts off Ctrl-C to the end of the block: what is done in it and what is said of it then agree."""
    caught: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield  # only the main thread gets signals, and only when nobody has turned them off
        return
    signal.signal(signal.SIGINT, lambda number, _frame: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if caught:
        raise KeyboardInterrupt


def duration(seconds: float) -> str:
    """Seconds as a person says them: "0.8 s", "12 s", "3 min 5 s", "2 h 10 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
