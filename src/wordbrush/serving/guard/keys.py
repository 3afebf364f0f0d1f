"""API keys: 256 random bits, shown once; the database keeps only a SHA-256 of each.

Keys are looked up by the id in front and compared in constant time. What the database says is kept in memory for two
seconds, so a key that `wordbrush keys` adds or removes beside a running server counts within that time.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from limits import parse
from sqlalchemy import BigInteger, Boolean, Column, Integer, String, Table, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from wordbrush.errors import RequestError
from wordbrush.serving.store.database import Database
from wordbrush.serving.store.tables import Base
from wordbrush.serving.work import Caller

SESSION = timedelta(days=7)
"""How long a browser stays logged in."""

_FRESH = 2.0  # seconds that what was read counts as known
_USED_EVERY = 60.0  # seconds between two writes of when a key was last used
_NAME = re.compile(r"[\w][\w .@+-]{0,63}")
_SECRET = re.compile(r"wb_([0-9a-f]{8})_([A-Za-z0-9_-]{43})")
_NOBODY = hashlib.sha256(b"").hexdigest()

_KEYS = Table(
    "api_keys",
    Base.metadata,
    Column("id", String(8), primary_key=True),
    Column("name", String(64), unique=True, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("admin", Boolean, nullable=False),
    Column("rate", String(64)),
    Column("jobs", Integer),
    Column("body", BigInteger),
    Column("created", BigInteger, nullable=False),
    Column("used", BigInteger),
)
_SESSIONS = Table(
    "api_sessions",
    Base.metadata,
    Column("digest", String(64), primary_key=True),
    Column("key", String(8), nullable=False, index=True),
    Column("until", BigInteger, nullable=False),
)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one key may do; None is what the server's settings say.

    Attributes:
        rate: most requests, as "120/minute".
        jobs: most jobs that wait or run at once; None is no limit of its own.
        body: largest body of a request, in bytes.
    """

    rate: str | None = None
    jobs: int | None = None
    body: int | None = None

    def __post_init__(self) -> None:
        """Raises `RequestError` for a rate that cannot be read or a number below 1."""
        if self.rate is not None:
            try:
                parse(self.rate)
            except ValueError as error:
                raise RequestError(f"rate={self.rate!r} does not fit: write it as 120/minute or 5/second") from error
        for name, value in (("jobs", self.jobs), ("body", self.body)):
            if value is not None and value < 1:
                raise RequestError(f"{name}={value} does not fit: at least 1 is wanted")


@dataclass(frozen=True, kw_only=True)
class Key:
    """A key as it is kept: everything but the secret.

    Attributes:
        id: 8 hexadecimal digits; also the owner of the jobs that are asked for with it.
        used: when it was last used, to the minute; None is never.
    """

    id: str
    name: str
    admin: bool
    limits: Limits
    created: datetime
    used: datetime | None = None
    digest: str = field(default=_NOBODY, repr=False)

    @property
    def caller(self) -> Caller:
        """Who calls with it."""
        return Caller(id=self.id, name=self.name, admin=self.admin)


class Keys:
    """The keys of one database. Any number of threads may call it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._reading = threading.Lock()  # held by the one that reads for all that ask at the same moment
        self._known: dict[str, Key] = {}
        self._sessions: dict[str, tuple[str, float]] = {}  # digest -> key's id, and when that was read
        self._read = float("-inf")
        self._written: dict[str, float] = {}
        with database.write() as connection:  # of a database that was made before there were keys
            Base.metadata.create_all(connection, tables=[_KEYS, _SESSIONS])

    def add(self, name: str, *, admin: bool = False, limits: Limits | None = None) -> tuple[Key, str]:
        """A new key, and its secret, which cannot be had again.

        Raises:
            RequestError: the name is taken or cannot be one.
        """
        if not _NAME.fullmatch(name):
            raise RequestError(
                f"name={name[:70]!r} does not fit: up to 64 letters, digits, spaces and . @ + - _ are wanted"
            )
        identity = secrets.token_hex(4)
        secret = f"wb_{identity}_{secrets.token_urlsafe(32)}"
        key = Key(
            id=identity, name=name, admin=admin, limits=limits or Limits(), created=_now(), digest=_digest(secret)
        )  # fmt: skip
        row = {"id": key.id, "name": name, "digest": key.digest, "admin": admin, "created": _microseconds(key.created)}
        try:
            with self._database.write() as connection:
                values = row | {"rate": key.limits.rate, "jobs": key.limits.jobs, "body": key.limits.body}
                connection.execute(insert(_KEYS).values(values))
        except IntegrityError as error:
            raise RequestError(
                f"there is a key named {name!r} already; remove it first, or take another name"
            ) from error
        self._forget()
        return key, secret

    def remove(self, name: str) -> Key:
        """Takes a key away, and logs out who logged in with it; its jobs stay. By name or id.

        Raises:
            RequestError: there is no such key.
        """
        found = next((key for key in self.list() if name in (key.name, key.id)), None)
        if found is None:
            known = ", ".join(key.name for key in self.list()) or "none"
            raise RequestError(f"there is no key {name!r}; there are: {known}")
        with self._database.write() as connection:
            connection.execute(delete(_SESSIONS).where(_SESSIONS.c.key == found.id))
            connection.execute(delete(_KEYS).where(_KEYS.c.id == found.id))
        self._forget()
        return found

    def list(self) -> list[Key]:
        """All keys, the oldest first, as the database has them now."""
        with self._database.read() as connection:
            rows = connection.execute(select(_KEYS).order_by(_KEYS.c.created, _KEYS.c.id)).mappings().all()
        return [
            Key(
                id=row["id"], name=row["name"], admin=row["admin"], digest=row["digest"],
                created=_moment(row["created"]),
                limits=Limits(rate=row["rate"], jobs=row["jobs"], body=row["body"]),
                used=None if row["used"] is None else _moment(row["used"]),
            )
            for row in rows
        ]  # fmt: skip

    def any(self) -> bool:
        """Whether there is a key at all."""
        return bool(self._current())

    def check(self, secret: str) -> Caller | None:
        """Who has this secret; None for nobody. Takes as long for a wrong one as for a right one."""
        match = _SECRET.fullmatch(secret)
        found = self._current().get(match[1]) if match else None
        right = hmac.compare_digest(_digest(secret), _NOBODY if found is None else found.digest)
        if found is None or not right:
            return None
        self._note_use(found.id)
        return found.caller

    def limits(self, caller: Caller) -> Limits:
        """What the key of this caller may do; no limits of its own for one without a key."""
        found = self._current().get(caller.id)
        return Limits() if found is None else found.limits

    def log_in(self, secret: str) -> str | None:
        """A session's token for a right secret, to be kept in a cookie; None for a wrong one."""
        caller = self.check(secret)
        if caller is None:
            return None
        token = secrets.token_urlsafe(32)
        with self._database.write() as connection:
            connection.execute(delete(_SESSIONS).where(_SESSIONS.c.until < _microseconds(_now())))
            connection.execute(
                insert(_SESSIONS).values(digest=_digest(token), key=caller.id, until=_microseconds(_now() + SESSION))
            )
        return token

    def log_out(self, token: str) -> None:
        """Ends a session; nothing happens where there is none."""
        with self._database.write() as connection:
            connection.execute(delete(_SESSIONS).where(_SESSIONS.c.digest == _digest(token)))
        self._forget()

    def session(self, token: str) -> Caller | None:
        """Who is logged in with this token; None for nobody."""
        digest, now = _digest(token), time.monotonic()
        with self._lock:
            identity, read = self._sessions.get(digest, ("", float("-inf")))
        if now - read > _FRESH:
            question = select(_SESSIONS.c.key).where(
                _SESSIONS.c.digest == digest, _SESSIONS.c.until > _microseconds(_now())
            )
            with self._database.read() as connection:
                identity = connection.execute(question).scalar_one_or_none() or ""
            with self._lock:
                if len(self._sessions) > 1000:  # of wrong tokens, above all
                    self._sessions.clear()
                self._sessions[digest] = (identity, now)
        found = self._current().get(identity)
        return None if found is None else found.caller

    def _current(self) -> dict[str, Key]:
        found = self._fresh()
        if found is None:
            with self._reading:
                found = self._fresh()
                if found is None:
                    now = time.monotonic()
                    found = {key.id: key for key in self.list()}
                    with self._lock:
                        self._known, self._read = found, now
        return found

    def _fresh(self) -> dict[str, Key] | None:
        with self._lock:
            return self._known if time.monotonic() - self._read <= _FRESH else None

    def _forget(self) -> None:
        with self._lock:
            self._read = float("-inf")
            self._sessions.clear()

    def _note_use(self, identity: str) -> None:
        now = time.monotonic()
        with self._lock:
            if now - self._written.get(identity, float("-inf")) < _USED_EVERY:
                return
            self._written[identity] = now
        with self._database.write() as connection:
            connection.execute(update(_KEYS).where(_KEYS.c.id == identity).values(used=_microseconds(_now())))


def _digest(secret: str) -> str:
    """Secrets of 256 random bits need no slow hash: there is nothing to guess."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _now() -> datetime:
    return datetime.now(UTC)


def _microseconds(moment: datetime) -> int:
    """Since 1970, as everywhere in the database."""
    return round(moment.timestamp() * 1_000_000)


def _moment(microseconds: int) -> datetime:
    return datetime.fromtimestamp(microseconds / 1_000_000, UTC)
