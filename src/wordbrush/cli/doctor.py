"""`wordbrush doctor`: what is wrong with an installation, and how to mend it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Annotated

import typer

from wordbrush.cli import checkup, console, options
from wordbrush.cli.checkup import Finding
from wordbrush.serving import checkup as server

Paint = Annotated[bool, typer.Option(help="Also paint a picture with the embedded model.")]
Server = Annotated[bool, typer.Option(help="Also look at the server's settings, data and port.")]

MARKS = {"good": "ok   ", "note": "note ", "wrong": "WRONG"}


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog="Example: wordbrush doctor")(doctor)


def doctor(paint: Paint = True, serve: Server = True, as_json: options.AsJson = False) -> None:
    """Say what is wrong with this installation, and how to mend it.

    Ends with 1 when something is wrong; notes are limits that you may be happy with.
    """
    checks: tuple[Callable[[], Iterator[Finding]], ...] = checkup.CHECKS
    if serve:
        checks += server.CHECKS
    if not paint:
        checks = tuple(check for check in checks if check is not checkup.picture)
    found = []
    for finding in checkup.examined(checks):
        found.append(finding)
        if not as_json:
            console.result(f"{MARKS[finding.level]}  {finding.about}: {finding.says}")
            if finding.mend is not None:
                console.result(f"       → {finding.mend}")
    wrong = sum(finding.level == "wrong" for finding in found)
    if as_json:
        console.json_result({"wrong": wrong, "findings": [asdict(finding) for finding in found]})
    else:
        typer.echo("nothing is wrong" if not wrong else f"{wrong} to mend", err=True)
    raise typer.Exit(1 if wrong else 0)
