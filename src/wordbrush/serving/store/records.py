"""Jobs between memory, rows and JSON."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Row

from wordbrush.inputs import InputPicture
from wordbrush.serving.store.channel import Channel, Follower
from wordbrush.serving.work import (
    AnyWork,
    Describe,
    Explain,
    Generate,
    Job,
    JobState,
    Problem,
    Progress,
    StoredPicture,
    Upscale,
)

_KINDS: dict[str, type[Generate] | type[Upscale] | type[Explain] | type[Describe]] = {
    "generate": Generate, "upscale": Upscale, "explain": Explain, "describe": Describe,
}  # fmt: skip
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True, kw_only=True)
class Live:
    """A job that waits or runs, as the server holds it in memory; what is not in the database yet is only here."""

    id: str
    work: AnyWork
    owner: str
    source: str
    priority: int
    rank: int
    created: int
    size: int
    batch_key: str | None
    state: JobState = JobState.QUEUED
    started: int | None = None
    finished: int | None = None
    attempts: int = 0
    crashes: int = 0
    worker: str | None = None
    cancelling: bool = False
    keep_partial: bool = False
    progress: Progress | None = None
    problem: Problem | None = None
    notes: tuple[str, ...] = ()
    output: dict[str, Any] = field(default_factory=dict)
    pictures: dict[tuple[str, int], StoredPicture] = field(default_factory=dict)
    channel: Channel | None = None
    told: int | None = None
    """The position that subscribers heard of last."""
    last_event: int | None = None
    """The id of the event that says it has ended."""
    waiters: set[Follower] = field(default_factory=set)

    @property
    def key(self) -> tuple[int, int, str]:
        """What the queue is sorted by."""
        return (-self.priority, self.rank, self.id)

    def job(self, position: int | None) -> Job:
        """The job as it is now."""
        return Job(
            id=self.id, work=self.work, state=self.state, owner=self.owner, source=self.source, priority=self.priority,
            created=moment(self.created), started=_moment(self.started), finished=_moment(self.finished),
            attempts=self.attempts, position=position, progress=self.progress, problem=self.problem, notes=self.notes,
            output=self.output, pictures=tuple(self.pictures.values()),
        )  # fmt: skip


def now_us() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000


def moment(microseconds: int) -> datetime:
    """That time in UTC."""
    return _EPOCH + timedelta(microseconds=microseconds)


def _moment(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else moment(microseconds)


def microseconds(time: datetime) -> int:
    """The reverse of `moment`; a time without a zone is UTC."""
    return (time.replace(tzinfo=time.tzinfo or UTC) - _EPOCH) // timedelta(microseconds=1)


def is_id(text: str) -> bool:
    """Whether a job can be called that."""
    return _ID.fullmatch(text) is not None


def new_id() -> str:
    """A UUID of version 7 (RFC 9562): the time in milliseconds, a fraction of it, and 62 random bits."""
    nanoseconds = time.time_ns()
    milliseconds, rest = divmod(nanoseconds, 1_000_000)
    value = milliseconds << 80 | 7 << 76 | (rest * 4096 // 1_000_000) << 64 | 2 << 62 | secrets.randbits(62)
    text = f"{value:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def pictures_of(work: AnyWork) -> int:
    """How many pictures a job is for."""
    if isinstance(work, Generate):
        return work.request.pictures
    return len(work.images) if isinstance(work, Upscale) else 1


def inputs_of(work: AnyWork) -> tuple[InputPicture, ...]:
    """The pictures that a client gave for it."""
    if isinstance(work, Generate | Explain):
        return tuple(part for part in (work.request.image, work.request.mask) if isinstance(part, InputPicture))
    return work.images if isinstance(work, Upscale) else (work.image,)


def model_of(work: AnyWork) -> str | None:
    """The model it names."""
    if isinstance(work, Generate | Explain):
        return work.request.model
    return work.upscaler if isinstance(work, Upscale) else work.model


def words_of(work: AnyWork) -> str:
    """Its prompts, case-folded, each once."""
    if not isinstance(work, Generate | Explain):
        return ""
    written = work.request.written
    texts = (*work.request.prompts, *((written,) if isinstance(written, str) else written or ()))
    return "\n".join(dict.fromkeys(texts)).casefold()


def write_work(work: AnyWork) -> str:
    """Exactly what was given, as JSON: a field that is left out means something else than its default to a preset."""
    return work.model_dump_json(exclude_unset=True)


def read_work(kind: str, text: str) -> AnyWork:
    """The reverse of `write_work`."""
    return _KINDS[kind].model_validate_json(text)


def read_job(row: Row[Any], pictures: Iterable[StoredPicture]) -> Job:
    """A job of the database that is not in memory."""
    return Job(
        id=row.id, work=read_work(row.kind, row.work), state=JobState(row.state), owner=row.owner, source=row.source,
        priority=row.priority, created=moment(row.created), started=_moment(row.started),
        finished=_moment(row.finished), attempts=row.attempts,
        problem=None if row.problem is None else Problem(**json.loads(row.problem)),
        notes=tuple(json.loads(row.notes or "[]")), output=json.loads(row.output or "{}"), pictures=tuple(pictures),
    )  # fmt: skip


def picture_row(job_id: str, ordinal: int, picture: StoredPicture) -> dict[str, Any]:
    """A picture's row of the table."""
    return {
        "job_id": job_id, "role": picture.role, "place": picture.index, "ordinal": ordinal, "sha256": picture.sha256,
        "width": picture.width, "height": picture.height, "bytes": picture.bytes, "label": picture.label,
        "seed": picture.seed, "request": None if picture.request is None else json.dumps(picture.request),
    }  # fmt: skip


def read_picture(row: Row[Any]) -> StoredPicture:
    """The reverse of `picture_row`."""
    return StoredPicture(
        sha256=row.sha256, index=row.place, width=row.width, height=row.height, bytes=row.bytes, role=row.role,
        label=row.label, seed=row.seed, request=None if row.request is None else json.loads(row.request),
    )  # fmt: skip


def work_json(work: AnyWork) -> dict[str, Any]:
    """A work as JSON values, its request without what was not asked for."""
    if isinstance(work, Generate):
        return {"kind": "generate", "request": work.request.to_dict()}
    if isinstance(work, Explain):
        return {"kind": "explain", "request": work.request.to_dict(), "columns": work.columns}
    return work.model_dump(mode="json")


def job_json(job: Job) -> dict[str, Any]:
    """A job as JSON values: what a "state" event carries."""
    progress = None if job.progress is None else progress_json(job.progress)
    return {
        "id": job.id, "state": str(job.state), "work": work_json(job.work), "owner": job.owner, "source": job.source,
        "priority": job.priority, "created": job.created.isoformat(), "started": _iso(job.started),
        "finished": _iso(job.finished), "attempts": job.attempts, "position": job.position, "progress": progress,
        "problem": None if job.problem is None else asdict(job.problem), "notes": list(job.notes),
        "output": job.output, "pictures": [picture_json(picture) for picture in job.pictures],
    }  # fmt: skip


def progress_json(progress: Progress) -> dict[str, Any]:
    """How far a job is, as JSON values, its `fraction` (0 to 1) as well."""
    return {**asdict(progress), "fraction": progress.fraction}


def picture_json(picture: StoredPicture) -> dict[str, Any]:
    """A picture as JSON values."""
    values: Mapping[str, Any] = {name: getattr(picture, name) for name in picture.__dataclass_fields__}
    return dict(values)


def _iso(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()
