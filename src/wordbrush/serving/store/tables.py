"""The tables. Times are microseconds since 1970 in UTC, lists and objects are JSON texts: alike in every database."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Index, Integer, String, Table, Text
from sqlalchemy.orm import DeclarativeBase

SCHEMA = 1
"""Of this version's tables; `database.Database` refuses a database that says more."""


class Base(DeclarativeBase):
    """Every table of the server hangs on its metadata, the keys' (guard) as well."""


META = Table(
    "wordbrush_meta",
    Base.metadata,
    Column("name", String(32), primary_key=True),
    Column("value", Text, nullable=False),
)
"""`schema`: the number above; `paused`: whether the queue is."""

JOBS = Table(
    "jobs",
    Base.metadata,
    Column("id", String(64), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("source", String(32), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("rank", BigInteger, nullable=False),
    Column("model", Text),
    Column("words", Text, nullable=False),  # the prompts, case-folded, for searching
    Column("work", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("started", BigInteger),
    Column("finished", BigInteger),
    Column("attempts", Integer, nullable=False),  # how often it was begun
    Column("crashes", Integer, nullable=False),  # how often a worker ended under it
    Column("worker", String(64)),
    Column("cancelling", Boolean, nullable=False),  # a running job that was told to stop
    Column("problem", Text),
    Column("notes", Text),
    Column("output", Text),
    Column("last_event", BigInteger),
    Index("jobs_by_time", "created", "id"),
    Index("jobs_by_owner", "owner", "created", "id"),
    Index("jobs_by_state", "state", "finished"),
)

PICTURES = Table(
    "pictures",
    Base.metadata,
    Column("job_id", String(64), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("role", String(16), primary_key=True),
    Column("place", Integer, primary_key=True),
    Column("ordinal", Integer, nullable=False),  # in the order in which they were finished
    Column("sha256", String(64), nullable=False, index=True),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("label", Text),
    Column("seed", BigInteger),
    Column("request", Text),
)

INPUTS = Table(
    "job_inputs",
    Base.metadata,
    Column("job_id", String(64), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("sha256", String(64), primary_key=True, index=True),
)
"""Which input pictures a job needs, so that they are kept as long as it."""

IDEMPOTENCY = Table(
    "idempotency",
    Base.metadata,
    Column("owner", String(64), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("body", String(64), nullable=False),  # SHA-256 of the work
    Column("job_id", String(64), ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False, index=True),
)

OPTIONS = Table(
    "caller_options",
    Base.metadata,
    Column("owner", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)
