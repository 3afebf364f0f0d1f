"""Where the server keeps everything: the database, the picture files, the keys, and what each caller has set."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select, update

from wordbrush.errors import RequestError
from wordbrush.serving.store.database import Database, lock_file
from wordbrush.serving.store.files import InputFiles, PictureFiles
from wordbrush.serving.store.tables import OPTIONS
from wordbrush.serving.work import Caller

if TYPE_CHECKING:
    from wordbrush.serving.settings import Settings


class Store:
    """The data folder and the database of one server.

    Args:
        settings: the server's.
        exclusive: False opens it beside a running server, for what is only read or added.

    Attributes:
        database: see `Database`; pictures, inputs: the files; options: what callers set; keys: the API keys.

    Raises:
        RequestError: the folder cannot be used, the database cannot be opened or is newer, or another server runs here.
    """

    def __init__(self, settings: Settings, *, exclusive: bool = True) -> None:
        from wordbrush.serving.guard.keys import Keys  # its tables are made with the others; it imports this package

        self.settings = settings
        try:
            settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or error
            raise RequestError(f"the data folder {str(settings.data)!r} cannot be made: {reason}") from error
        self._lock = lock_file(settings.data / "server.lock", str(settings.data)) if exclusive else None
        try:
            self.database = Database(settings.database_url, exclusive=exclusive)
        except BaseException:
            self._free()
            raise
        self.pictures = PictureFiles(settings.data)
        self.inputs = InputFiles(settings.data)
        self.options = Options(self.database)
        self.keys = Keys(self.database)

    def check(self) -> None:
        """Writes a row. Raises `WorkFailed` when the database does not take it."""
        self.database.check()

    def close(self) -> None:
        """Ends the connections, and lets another server use the folder. Harmless the second time."""
        self.database.close()
        self._free()

    def _free(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None


class Options:
    """What callers have set for themselves, as one JSON object each."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, caller: Caller) -> dict[str, Any]:
        """What the caller has set; empty at first."""
        with self._database.read() as connection:
            text = connection.execute(select(OPTIONS.c.value).where(OPTIONS.c.owner == caller.id)).scalar()
        found: dict[str, Any] = {} if text is None else json.loads(text)
        return found

    def set(self, caller: Caller, values: dict[str, Any]) -> None:
        """Replaces all that the caller has set."""
        text = json.dumps(values)
        with self._database.write() as connection:
            change = update(OPTIONS).where(OPTIONS.c.owner == caller.id).values(value=text)
            if connection.execute(change).rowcount == 0:
                connection.execute(insert(OPTIONS).values(owner=caller.id, value=text))
