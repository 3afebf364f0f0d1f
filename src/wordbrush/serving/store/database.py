"""The database: an SQLite file in WAL mode unless a URL says otherwise, opened by one server at a time."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy import Connection, Engine, create_engine, event, insert, make_url, select, text, update
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from wordbrush.errors import RequestError, WorkFailed
from wordbrush.serving.store.tables import META, SCHEMA, Base

# How long a writer waits for another process's transaction (`wordbrush keys` beside a running server), in seconds.
BUSY = 15

# For so many seconds a lock of PostgreSQL's is taken to be there still.
_HELD = 1.0

# What PostgreSQL's advisory lock is known by; any number that no other program is likely to use.
_ADVISORY = 0x776F726462727573


class Database:
    """An engine, its tables, and transactions on it; any thread may use it.

    Args:
        url: of SQLAlchemy.
        exclusive: take the lock that only one server has.

    Raises:
        RequestError: it cannot be opened, another server has it, or a newer Wordbrush made it.
    """

    def __init__(self, url: str, *, exclusive: bool = True) -> None:
        self.exclusive = exclusive
        self._file_lock: FileLock | None = None
        self._lock_connection: Connection | None = None
        self._holding, self._held = threading.Lock(), time.monotonic()
        self._shown = _without_password(url)
        try:
            self.engine = _engine(url)
        except (ArgumentError, NoSuchModuleError, ImportError) as error:
            raise RequestError(f"the database URL {self._shown!r} cannot be used: {_first_line(error)}") from error
        self._writing = self.engine.execution_options(wordbrush_writes=True)
        try:
            if exclusive:
                self._lock()
            self._prepare()
        except (SQLAlchemyError, WorkFailed) as error:
            self.close()
            reason = _first_line(error.__cause__ if isinstance(error, WorkFailed) and error.__cause__ else error)
            raise RequestError(f"the database {self._shown!r} cannot be opened: {reason}") from error
        except RequestError:
            self.close()
            raise

    @property
    def sqlite(self) -> bool:
        """Whether it is an SQLite file."""
        return self.engine.dialect.name == "sqlite"

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads: it sees the database at one moment. Raises `WorkFailed` when it cannot."""
        with _said(self._shown), self.engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may write; all of it happens, or, when the block raises, nothing.

        Raises:
            WorkFailed: the database does not take it (the disk is full, the connection is lost).
        """
        with _said(self._shown):
            self._hold()
            with self._writing.begin() as connection:
                yield connection

    def check(self) -> None:
        """Writes a row. Raises `WorkFailed` when the database does not take it."""
        with self.write() as connection:
            connection.execute(update(META).where(META.c.name == "schema").values(value=str(SCHEMA)))

    def close(self) -> None:
        """Ends all connections and lets another server in."""
        if self._lock_connection is not None:
            self._lock_connection.close()
            self._lock_connection = None
        self.engine.dispose()
        if self._file_lock is not None:
            self._file_lock.release()
            self._file_lock = None

    def _lock(self) -> None:
        if self.sqlite:
            path = _sqlite_path(self.engine)
            if path is not None:
                self._file_lock = lock_file(path.with_name(path.name + ".lock"), self._shown)
        elif self.engine.dialect.name == "postgresql":
            self._lock_connection = self.engine.connect()
            free = self._lock_connection.execute(text(f"SELECT pg_try_advisory_lock({_ADVISORY})")).scalar_one()
            self._lock_connection.commit()
            if not free:
                raise RequestError(_taken(self._shown, ""))

    def _hold(self) -> None:
        """Takes the lock again where it was lost: PostgreSQL forgets it when its connection breaks, at a restart say.

        Raises `WorkFailed` when another server has it by now.
        """
        if self._lock_connection is None:
            return
        with self._holding:
            if time.monotonic() - self._held < _HELD:
                return
            try:
                self._lock_connection.execute(text("SELECT 1"))
                self._lock_connection.commit()
            except DBAPIError:
                with contextlib.suppress(DBAPIError):
                    self._lock_connection.close()
                try:
                    self._lock()
                except RequestError as error:
                    raise WorkFailed(str(error)) from error
            self._held = time.monotonic()

    def _prepare(self) -> None:
        """Makes what is missing, and refuses what is newer."""
        with self.read() as connection:
            query = select(META.c.value).where(META.c.name == "schema")
            exists = self.engine.dialect.has_table(connection, META.name)
            stored = connection.execute(query).scalar() if exists else None
        if stored is not None and int(stored) > SCHEMA:
            raise RequestError(
                f"the database {self._shown!r} was written by a newer Wordbrush (its schema is {stored}, this one "
                f"reads up to {SCHEMA}): install that version or a later one, or start with another data folder"
            )
        with self.write() as connection:
            Base.metadata.create_all(connection)
            if connection.execute(query).scalar() is None:
                connection.execute(insert(META).values(name="schema", value=str(SCHEMA)))


@contextlib.contextmanager
def _said(shown: str) -> Iterator[None]:
    try:
        yield
    except IntegrityError:  # what the caller asks about
        raise
    except (DBAPIError, PoolTimeout) as error:
        raise WorkFailed(f"the database {shown!r} does not answer as it should: {_first_line(error)}") from error


def lock_file(path: Path, shown: str) -> FileLock:
    """Takes a lock that ends with this process, however that ends. Raises `RequestError` when another has it."""
    lock = FileLock(path, thread_local=False)
    beside = path.with_name(path.name + ".pid")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        with contextlib.suppress(OSError):
            raise RequestError(_taken(shown, f" (process {int(beside.read_text())})")) from error
        raise RequestError(_taken(shown, "")) from error
    with contextlib.suppress(OSError):  # only for the message above
        beside.write_text(str(os.getpid()))
    return lock


def _taken(shown: str, process: str) -> str:
    return f"another server{process} runs on {shown!r}: end it first, or start this one with another data folder"


def _engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() in ("postgresql", "postgres") and parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")  # the driver that is offered in the installation guide
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, pool_pre_ping=True, pool_size=8, max_overflow=16)
    if parsed.database:
        try:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RequestError(
                f"the folder {str(Path(parsed.database).parent)!r} cannot be made: {error.strerror or error}"
            ) from error
    engine = create_engine(parsed, connect_args={"timeout": BUSY}, pool_size=8, max_overflow=16)
    event.listen(engine, "connect", _set_up)
    event.listen(engine, "begin", _begin)
    return engine


def _set_up(connection: sqlite3.Connection, record: Any) -> None:
    """An SQLite connection: readers do not wait for the writer, and what was committed outlives a power cut."""
    del record
    connection.isolation_level = None  # transactions begin where we say so, see `_begin`
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "temp_store=MEMORY"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    """A transaction that may write takes the write lock at once: taken later, it could be refused half-way."""
    writes = connection.get_execution_options().get("wordbrush_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _sqlite_path(engine: Engine) -> Path | None:
    name = engine.url.database
    return None if not name or name == ":memory:" else Path(name)


def _without_password(url: str) -> str:
    try:
        parsed = make_url(url)
    except ArgumentError:
        return "…"
    if parsed.get_backend_name() == "sqlite":
        return parsed.database or ":memory:"
    return parsed.render_as_string(hide_password=True)


def _first_line(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]
