"""What the queue writes into the database; each function is a part of one transaction."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from wordbrush.serving.store.channel import first_event_id
from wordbrush.serving.store.records import (
    Live,
    inputs_of,
    model_of,
    picture_row,
    read_picture,
    words_of,
    write_work,
)
from wordbrush.serving.store.tables import IDEMPOTENCY, INPUTS, JOBS, META, PICTURES
from wordbrush.serving.work import JobState, Problem, StoredPicture

# So many values at most stand in one IN (…).
CHUNK = 400

# What is set are the columns that the rows name.
_CHANGE = update(JOBS).where(JOBS.c.id == bindparam("of"))


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a job ends."""

    live: Live
    state: JobState
    problem: Problem | None = None
    notes: tuple[str, ...] = ()
    output: dict[str, Any] = field(default_factory=dict)


def insert_job(connection: Connection, live: Live, idempotency: tuple[str, str] | None) -> None:
    """A new job, and the key and body hash that it came with."""
    connection.execute(
        insert(JOBS),
        {
            "id": live.id, "owner": live.owner, "source": live.source, "kind": live.work.kind,
            "state": live.state.value, "priority": live.priority, "rank": live.rank, "model": model_of(live.work),
            "words": words_of(live.work), "work": write_work(live.work), "created": live.created, "attempts": 0,
            "crashes": 0, "cancelling": False,
        },
    )  # fmt: skip
    hashes = {picture.sha256 for picture in inputs_of(live.work)}
    if hashes:
        connection.execute(insert(INPUTS), [{"job_id": live.id, "sha256": sha256} for sha256 in hashes])
    if idempotency is not None:
        key, body = idempotency
        connection.execute(insert(IDEMPOTENCY).values(owner=live.owner, key=key, body=body, job_id=live.id))


def start_jobs(connection: Connection, jobs: Iterable[Live], worker: str, when: int) -> None:
    """These run now."""
    values = {"state": JobState.RUNNING.value, "started": when, "worker": worker, "attempts": JOBS.c.attempts + 1}
    connection.execute(update(JOBS).where(JOBS.c.id.in_([live.id for live in jobs])).values(values))


def queue_again(connection: Connection, jobs: Sequence[Live], *, crashed: bool) -> None:
    """These wait again; unless they crashed, it is as if they had not been begun."""
    values: dict[str, Any] = {"state": JobState.QUEUED.value, "started": None, "worker": None}
    values |= {"crashes": JOBS.c.crashes + 1} if crashed else {"attempts": JOBS.c.attempts - 1}
    for part in chunks([live.id for live in jobs]):
        connection.execute(update(JOBS).where(JOBS.c.id.in_(part)).values(values))


def end_jobs(connection: Connection, endings: Sequence[Ending], when: int) -> None:
    """These have ended, with the pictures that they have."""
    rows = []
    pictures: list[dict[str, Any]] = []
    for ending in endings:
        live = ending.live
        live.last_event = max(first_event_id(), live.channel.last + 1000 if live.channel is not None else 0)
        own = list(live.pictures.values())
        problem = None if ending.problem is None else json.dumps(asdict(ending.problem))
        rows.append({
            "of": live.id, "state": ending.state.value, "finished": when,
            "model": _model(live, own), "problem": problem,
            "notes": json.dumps(ending.notes) if ending.notes else None,
            "output": json.dumps(ending.output) if ending.output else None, "last_event": live.last_event,
        })  # fmt: skip
        pictures += [picture_row(live.id, ordinal, picture) for ordinal, picture in enumerate(own)]
    connection.execute(_CHANGE, rows)
    if pictures:
        connection.execute(insert(PICTURES), pictures)


def _model(live: Live, pictures: list[StoredPicture]) -> str | None:
    """The model that was asked for, or, where the job named none, the one that its pictures name."""
    asked = model_of(live.work)
    if asked is None and pictures and pictures[0].request is not None:
        name = pictures[0].request.get("model")
        return name if isinstance(name, str) else None
    return asked


def place_jobs(connection: Connection, slots: dict[str, tuple[int, int]]) -> None:
    """Other priorities and ranks."""
    if slots:
        connection.execute(_CHANGE, [{"of": name, "priority": one, "rank": two} for name, (one, two) in slots.items()])


def mark_cancelling(connection: Connection, jobs: Iterable[Live]) -> None:
    """Running jobs that are to stop, also when the server ends before they have."""
    for part in chunks([live.id for live in jobs]):
        connection.execute(update(JOBS).where(JOBS.c.id.in_(part)).values(cancelling=True))


def recover_jobs(connection: Connection, job_ids: Sequence[str]) -> None:
    """Jobs that ran when their server ended wait again."""
    for part in chunks(job_ids):
        values = {"state": JobState.QUEUED.value, "started": None, "worker": None}
        connection.execute(update(JOBS).where(JOBS.c.id.in_(part)).values(values))


def set_meta(connection: Connection, name: str, value: str) -> None:
    """A value of the server's own."""
    if connection.execute(update(META).where(META.c.name == name).values(value=value)).rowcount == 0:
        connection.execute(insert(META).values(name=name, value=value))


def get_meta(connection: Connection, name: str) -> str | None:
    """The reverse of `set_meta`."""
    return connection.execute(select(META.c.value).where(META.c.name == name)).scalar()


def pictures_by_job(connection: Connection, job_ids: Sequence[str]) -> dict[str, list[StoredPicture]]:
    """The pictures of ended jobs, in the order in which they were finished."""
    found: dict[str, list[StoredPicture]] = {job_id: [] for job_id in job_ids}
    for part in chunks(job_ids):
        query = select(PICTURES).where(PICTURES.c.job_id.in_(part)).order_by(PICTURES.c.job_id, PICTURES.c.ordinal)
        for row in connection.execute(query):
            found[row.job_id].append(read_picture(row))
    return found


def delete_jobs(connection: Connection, job_ids: Sequence[str]) -> tuple[set[str], set[str]]:
    """Deletes ended jobs.

    Returns the hashes of the finished pictures and of the input pictures that no job needs any more.
    """
    hashes: tuple[set[str], set[str]] = (set(), set())
    for part in chunks(job_ids):
        for table, found in zip((PICTURES, INPUTS), hashes, strict=True):
            found |= set(connection.execute(select(table.c.sha256).where(table.c.job_id.in_(part))).scalars())
    for part in chunks(job_ids):
        for table in (PICTURES, INPUTS, IDEMPOTENCY):
            connection.execute(delete(table).where(table.c.job_id.in_(part)))
        connection.execute(delete(JOBS).where(JOBS.c.id.in_(part)))
    return unused(connection, hashes[0]), unused(connection, hashes[1])


def unused(connection: Connection, hashes: set[str]) -> set[str]:
    """Those that neither a picture nor an input of a job has."""
    left = set(hashes)
    for part in chunks(sorted(hashes)):
        for table in (PICTURES, INPUTS):
            left -= set(connection.execute(select(table.c.sha256).where(table.c.sha256.in_(part))).scalars())
    return left


def chunks(values: Sequence[str], most: int = CHUNK) -> Iterable[Sequence[str]]:
    """Parts that fit into one statement."""
    return (values[start : start + most] for start in range(0, len(values), most))
