"""`wordbrush keys`: who may call a server that `wordbrush serve` runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wordbrush.cli import console, options
from wordbrush.errors import RequestError

if TYPE_CHECKING:
    from wordbrush.serving.guard.keys import Key, Keys

Name = Annotated[str, typer.Argument(metavar="NAME", help="What the key is called; unique.")]
Named = Annotated[str, typer.Argument(metavar="NAME", help="A name or an id that `keys list` shows.")]
Admin = Annotated[
    bool, typer.Option("--admin", help="It may see and change the jobs of all keys, and pause the queue.")
]
Rate = Annotated[
    str | None, typer.Option("--rate", help="Most requests, such as 120/minute.", show_default="the server's")
]
Jobs = Annotated[
    int | None, typer.Option("--jobs", help="Most jobs that wait or run at once.", show_default="no limit")
]
Body = Annotated[
    int | None, typer.Option("--body", metavar="BYTES", help="Largest request.", show_default="the server's")
]
Data = Annotated[
    Path | None, typer.Option("--data", help="The server's data folder.", show_default="as `wordbrush serve`")
]
Database = Annotated[
    str | None,
    typer.Option("--database", metavar="URL", help="The server's database.", show_default="in the data folder"),
]


def register(app: typer.Typer) -> None:
    """Adds the command group."""
    group = console.command_group(app, "keys", "Make, list and remove the API keys of a server.")
    group.command(epilog="Example: wordbrush keys add laptop --rate 120/minute")(add)
    group.command("list", epilog="Example: wordbrush keys list")(list_keys)
    group.command(epilog="Example: wordbrush keys remove laptop")(remove)


def add(
    name: Name,
    admin: Admin = False,
    rate: Rate = None,
    jobs: Jobs = None,
    body: Body = None,
    data: Data = None,
    database: Database = None,
    as_json: options.AsJson = False,
) -> None:
    """Make a key, and print it: it is kept nowhere, and cannot be shown again.

    With a first key, a server on this machine asks for one too.
    """
    with _keys(data, database) as keys:
        from wordbrush.serving.guard.keys import Limits

        key, secret = keys.add(name, admin=admin, limits=Limits(rate=rate, jobs=jobs, body=body))
    if as_json:
        console.json_result({**_shown(key), "key": secret})
        return
    console.result(secret)
    console.note(f"this is the key {key.name!r}; keep it, it cannot be shown again")


def list_keys(data: Data = None, database: Database = None, as_json: options.AsJson = False) -> None:
    """List the keys: their names, what they may do, and when they were last used."""
    with _keys(data, database) as keys:
        rows = [_shown(key) for key in keys.list()]
    if as_json:
        console.json_result({"keys": rows})
        return
    heading = ("name", "id", "admin", "rate", "jobs", "body", "created", "used")
    for line in console.table(heading, [tuple(_cell(row[column]) for column in heading) for row in rows]):
        console.result(line)


def remove(name: Named, data: Data = None, database: Database = None) -> None:
    """Take a key away; a server that runs refuses it within seconds. Its jobs stay."""
    with _keys(data, database) as keys:
        key = keys.remove(name)
        last = not keys.list()
    console.result(f"removed {key.name} ({key.id})")
    if last:
        console.note("it was the last one: a server on this machine now asks for none, any other answers nobody")


@contextmanager
def _keys(data: Path | None, database: str | None) -> Iterator[Keys]:
    """The keys of a server's database, whether or not the server runs."""
    try:
        from wordbrush.serving.guard.keys import Keys
        from wordbrush.serving.settings import Settings
        from wordbrush.serving.store.database import Database as Opened
    except ImportError as error:
        raise RequestError(f"keys need {error.name}, which is not installed: pip install 'wordbrush[serve]'") from error
    given: dict[str, Any] = {"data": data, "database": database}
    settings = Settings(**{name: value for name, value in given.items() if value is not None})
    opened = Opened(settings.database_url, exclusive=False)
    try:
        yield Keys(opened)
    finally:
        opened.close()


def _shown(key: Key) -> dict[str, Any]:
    return {
        "name": key.name,
        "id": key.id,
        "admin": key.admin,
        "rate": key.limits.rate,
        "jobs": key.limits.jobs,
        "body": key.limits.body,
        "created": _time(key.created),
        "used": None if key.used is None else _time(key.used),
    }


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")


def _cell(value: Any) -> str:
    return {None: "", True: "yes", False: ""}[value] if value is None or isinstance(value, bool) else str(value)
