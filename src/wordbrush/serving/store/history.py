"""Reading jobs back: lists with filters, page by page, and pictures by their hash."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Select, and_, func, or_, select

from wordbrush.errors import RequestError
from wordbrush.serving.store.records import microseconds, read_job, read_picture
from wordbrush.serving.store.rows import pictures_by_job
from wordbrush.serving.store.tables import JOBS, PICTURES
from wordbrush.serving.work import Caller, Job, StoredPicture

LARGEST_PAGE = 500
LONGEST_TEXT = 1000

_CURSOR = re.compile(r"(\d{1,18}):(.{1,64})", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class JobFilter:
    """Which jobs; what is left out does not matter.

    Attributes:
        states: such as `JobState.DONE` or "done".
        sources: such as "v1", "studio".
        kinds: such as "generate".
        model: its name.
        text: a part of the prompt, in upper or lower case.
        since: made at this time or later; until: made before this time. Without a zone they are UTC.
        owner: the id of a key; of use to administrators, others see their own jobs only.
    """

    states: Collection[str] | None = None
    sources: Collection[str] | None = None
    kinds: Collection[str] | None = None
    model: str | None = None
    text: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    owner: str | None = None


@dataclass(frozen=True, kw_only=True)
class Page:
    """A part of a list.

    Attributes:
        next_cursor: what gives the next page; None on the last.
        total: how many jobs the filter fits, over all pages.
    """

    jobs: tuple[Job, ...]
    next_cursor: str | None
    total: int


def read_page(
    connection: Connection, caller: Caller, wanted: JobFilter, *, limit: int, cursor: str | None, newest_first: bool
) -> Page:
    """A page of what the caller may see, by the time the jobs came in.

    Raises:
        RequestError: `limit` is not 1 to 500, the text to look for is too long, or `cursor` is none that an earlier
            page gave.
    """
    if not 1 <= limit <= LARGEST_PAGE:
        raise RequestError(f"limit={limit} does not fit: a page holds 1 to {LARGEST_PAGE} jobs")
    conditions = _conditions(caller, wanted)
    total = connection.execute(select(func.count()).select_from(JOBS).where(*conditions)).scalar_one()
    query: Select[tuple[object, ...]] = select(JOBS).where(*conditions)
    if cursor is not None:
        query = query.where(_beyond(cursor, newest_first=newest_first))
    columns = (JOBS.c.created, JOBS.c.id)
    query = query.order_by(*(column.desc() if newest_first else column.asc() for column in columns)).limit(limit + 1)
    rows = connection.execute(query).all()
    shown = rows[:limit]
    pictures = pictures_by_job(connection, [row.id for row in shown])
    more = f"{shown[-1].created}:{shown[-1].id}" if len(rows) > limit else None
    return Page(
        jobs=tuple(read_job(row, pictures[row.id]) for row in shown),
        next_cursor=None if more is None else base64.urlsafe_b64encode(more.encode()).decode().rstrip("="),
        total=total,
    )


def read_one(connection: Connection, job_id: str) -> tuple[Job, int] | None:
    """A job and the id of its last event; None where there is none."""
    row = connection.execute(select(JOBS).where(JOBS.c.id == job_id)).one_or_none()
    if row is None:
        return None
    return read_job(row, pictures_by_job(connection, [job_id])[job_id]), row.last_event or 0


def find_picture(connection: Connection, sha256: str, caller: Caller) -> StoredPicture | None:
    """A finished picture by its file's hash, of a job that the caller may see."""
    query = select(PICTURES).join(JOBS, JOBS.c.id == PICTURES.c.job_id).where(PICTURES.c.sha256 == sha256)
    row = connection.execute(query.where(*_seen_by(caller)).order_by(JOBS.c.created).limit(1)).one_or_none()
    return None if row is None else read_picture(row)


def _seen_by(caller: Caller) -> list[ColumnElement[bool]]:
    return [] if caller.admin else [JOBS.c.owner == caller.id]


def _conditions(caller: Caller, wanted: JobFilter) -> list[ColumnElement[bool]]:
    found = _seen_by(caller)
    lists = ((JOBS.c.state, wanted.states), (JOBS.c.source, wanted.sources), (JOBS.c.kind, wanted.kinds))
    found += [column.in_([str(name) for name in names]) for column, names in lists if names]
    if wanted.model is not None:
        found.append(JOBS.c.model == _sendable(wanted.model))
    if wanted.owner is not None:
        found.append(JOBS.c.owner == _sendable(wanted.owner))
    if wanted.text:
        if len(wanted.text) > LONGEST_TEXT:
            raise RequestError(f"the text to look for has {len(wanted.text)} characters; give {LONGEST_TEXT} or fewer")
        found.append(JOBS.c.words.contains(_sendable(wanted.text).casefold(), autoescape=True))
    if wanted.since is not None:
        found.append(JOBS.c.created >= microseconds(wanted.since))
    if wanted.until is not None:
        found.append(JOBS.c.created < microseconds(wanted.until))
    return found


def _sendable(text: str) -> str:
    """Without what is no Unicode text, which a database refuses."""
    return text.encode("utf-8", "ignore").decode().replace("\0", "")


def _beyond(cursor: str, *, newest_first: bool) -> ColumnElement[bool]:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        text = ""
    match = _CURSOR.fullmatch(text)
    if match is None or "\0" in text:
        raise RequestError(f"cursor={cursor[:80]!r} is none that an earlier page gave; leave it out for the first page")
    created, job_id = int(match[1]), match[2]
    if newest_first:
        return or_(JOBS.c.created < created, and_(JOBS.c.created == created, JOBS.c.id < job_id))
    return or_(JOBS.c.created > created, and_(JOBS.c.created == created, JOBS.c.id > job_id))
