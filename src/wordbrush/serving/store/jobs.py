"""The queue: every request is a job here, from the moment it comes in until it is deleted.

Everything is synchronous and may be called from any thread; what a coroutine may call without a thread of its own
(`wait_async`, `watched`, `ahead`) says so.
"""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.exc import IntegrityError

from wordbrush.errors import RequestError
from wordbrush.serving.store import rows
from wordbrush.serving.store.errors import IdempotencyConflict, NoSuchJob, NotAllowed, QueueFull, WrongState
from wordbrush.serving.store.handing import Finished
from wordbrush.serving.store.history import JobFilter, Page
from wordbrush.serving.store.looking import Looking, Stats, may
from wordbrush.serving.store.records import (
    Live,
    inputs_of,
    is_id,
    new_id,
    now_us,
    pictures_of,
    read_work,
    write_work,
)
from wordbrush.serving.store.retention import Retention
from wordbrush.serving.store.rows import Ending
from wordbrush.serving.store.store import Store
from wordbrush.serving.store.tables import IDEMPOTENCY, JOBS
from wordbrush.serving.work import AnyWork, Caller, Job, JobState
from wordbrush.serving.workers.batching import batch_key

__all__ = [
    "Finished", "IdempotencyConflict", "JobFilter", "Jobs", "NoSuchJob", "NotAllowed", "Page", "QueueFull", "Stats",
    "WrongState",
]  # fmt: skip

PRIORITIES = range(-100, 101)

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_DEFAULT_RETRY = 5

# So many jobs that are past their time are deleted in one transaction, and seconds between two of them.
_AT_ONCE, _BREATH = 50, 0.02


class Jobs(Looking):
    """All jobs of a server.

    Args:
        store: opened exclusively; jobs that an earlier server left running wait again.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        if not store.database.exclusive:
            raise ValueError("Jobs needs a Store that is opened exclusively")
        self._retention = Retention(store)
        with self._database.read() as connection:
            self._paused = rows.get_meta(connection, "paused") == "true"
        self.recover()

    def submit(
        self,
        work: AnyWork,
        caller: Caller,
        *,
        source: str,
        priority: int = 0,
        idempotency_key: str | None = None,
        job_id: str | None = None,
        asked: AnyWork | None = None,
    ) -> Job:
        """Puts work at the end of the queue, of its priority.

        Args:
            work: with its seed; its pictures are in the store.
            source: the door it came through.
            priority: -100 to 100, the highest first; above 0 for administrators only.
            idempotency_key: 1 to 255 visible ASCII characters. When the caller used it before for the same work, that
                first job is returned and nothing new begins.
            job_id: 1 to 64 letters, digits and `._-`, in place of a new one.
            asked: the work as the client sent it, before a seed was drawn; by this "the same" is decided.

        Raises:
            RequestError: an argument does not fit, or a picture is not named by its hash.
            NotAllowed: the priority is an administrator's.
            QueueFull: `settings.queue_limit` jobs wait, or as many of the caller's wait or run as its key allows.
            IdempotencyConflict: the key was used for other work, or there is a job of that id.
        """
        live = _new_live(work, caller, source, _checked_priority(priority, caller), job_id)
        idempotency = None if idempotency_key is None else (idempotency_key, _body(asked or work, idempotency_key))
        with self._writing:
            if idempotency is not None:
                first = self._first_of(caller, *idempotency)
                if first is not None:
                    return first
            self._make_room(caller)
            live.rank, live.created = self._board.next_rank(), now_us()
            try:
                with self._database.write() as connection:
                    rows.insert_job(connection, live, idempotency)
            except IntegrityError as error:
                raise IdempotencyConflict(f"there is a job {live.id!r} already; choose another id") from error
            self._board.queue(live)
        job = self._board.snapshot(live)
        self._tell_queued()
        return job

    def _make_room(self, caller: Caller) -> None:
        limit, own = self._store.settings.queue_limit, self._store.keys.limits(caller).jobs
        with self._board.lock:
            full = len(self._board.order) >= limit
            if not full and (own is None or self.count(caller) < own):
                return
            rate = self._board.pace.per_second()
        wait = _DEFAULT_RETRY if not rate else math.ceil(self._store.settings.batch / rate)
        raise QueueFull(limit if full else own or 0, max(1, min(wait, 60)), own=not full)

    def _first_of(self, caller: Caller, key: str, body: str) -> Job | None:
        table = IDEMPOTENCY
        with self._database.read() as connection:
            query = select(table.c.body, table.c.job_id).where(table.c.owner == caller.id, table.c.key == key)
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        if row.body != body:
            raise IdempotencyConflict(f"the idempotency key {key!r} was used before for other work; use a new key")
        return self.get(row.job_id, caller)

    def cancel(self, job_id: str, caller: Caller, *, keep_partial: bool = False) -> Job:
        """Ends a job: one that waits at once, a running one within a step; of one that has ended nothing changes.

        Args:
            keep_partial: a running one keeps its picture as it stands, with the role "partial".

        Raises:
            NoSuchJob: there is none, or it is another caller's.
        """
        ended: list[Job] = []
        with self._writing:
            live = self._live(job_id, caller)
            if live is not None and live.state is JobState.QUEUED:
                ended = self._end([Ending(live=live, state=JobState.CANCELLED)])
            elif live is not None:
                self._stop_running([live], keep_partial=keep_partial)
        self._tell_ended(ended)
        if live is not None and not ended:
            self._tell_cancelled([live], keep_partial=keep_partial)
        return ended[0] if ended else self.get(job_id, caller)

    def cancel_all(self, caller: Caller, *, keep_partial: bool = False, everyone: bool = False) -> Sequence[Job]:
        """Cancels the caller's own jobs that wait or run; with `everyone` an administrator cancels all there are.

        Returns the jobs as they are then. Raises `NotAllowed`.
        """
        if everyone and not caller.admin:
            raise NotAllowed("only an administrator's key may cancel other callers' jobs")
        with self._writing:
            with self._board.lock:
                own = [live for live in self._board.live.values() if everyone or live.owner == caller.id]
            waiting = [live for live in own if live.state is JobState.QUEUED]
            running = [live for live in own if live.state is JobState.RUNNING]
            ended = self._end([Ending(live=live, state=JobState.CANCELLED) for live in waiting])
            self._stop_running(running, keep_partial=keep_partial)
        self._tell_ended(ended)
        self._tell_cancelled(running, keep_partial=keep_partial)
        return [*ended, *(self._board.snapshot(live) for live in running)]

    def _stop_running(self, jobs: Sequence[Live], *, keep_partial: bool) -> None:
        """Writes down that these are to stop, so that they do not begin again if the server ends before they have."""
        if not jobs:
            return
        with self._database.write() as connection:
            rows.mark_cancelling(connection, jobs)
        for live in jobs:
            live.cancelling = True
            live.keep_partial = keep_partial

    def _tell_cancelled(self, jobs: Sequence[Live], *, keep_partial: bool) -> None:
        for live in jobs:
            for callback in self._when_cancelled:
                callback(live.id, keep_partial)

    def move(self, job_id: str, caller: Caller, *, before: str | None) -> Job:
        """Puts a job that waits before another one that does, or, with None, at the end.

        An administrator moves it in the whole queue, and it takes the priority of the job that it now stands before.
        Others move it among their own jobs, which change places with one another.

        Raises:
            NoSuchJob: one of the two is not there, or another caller's.
            WrongState: one of the two does not wait.
        """
        with self._writing:
            live = self._waiting(job_id, caller)
            other = None if before is None else self._waiting(before, caller)
            if other is live:
                return self._board.snapshot(live)
            with self._board.lock:
                among = [one for one in self._board.order if may(caller, one.owner)]
                slots = self._board.order.moved(live, other, among, whole=caller.admin)
            self._place(slots)
        return self._board.snapshot(live)

    def set_priority(self, job_id: str, caller: Caller, priority: int) -> Job:
        """Gives a job that waits another priority, -100 to 100; above 0 for administrators only.

        Raises:
            RequestError, NotAllowed: the priority does not fit.
            NoSuchJob, WrongState: as `move`.
        """
        checked = _checked_priority(priority, caller)
        with self._writing:
            live = self._waiting(job_id, caller)
            self._place({live.id: (checked, live.rank)})
        return self._board.snapshot(live)

    def _place(self, slots: dict[str, tuple[int, int]]) -> None:
        with self._database.write() as connection:
            rows.place_jobs(connection, slots)
        self._board.reorder(slots)

    def _waiting(self, job_id: str, caller: Caller) -> Live:
        live = self._live(job_id, caller)
        if live is None or live.state is not JobState.QUEUED:
            state = self._stored(job_id, caller)[0].state
            raise WrongState(f"the job {job_id!r} is {state}; only jobs that wait have a place in the queue")
        return live

    @property
    def paused(self) -> bool:
        """Whether no new jobs begin. It stays so when the server is started anew."""
        return self._paused

    def pause(self) -> None:
        """No new jobs begin; those that run finish."""
        self._set_paused(True)

    def resume(self) -> None:
        """Jobs begin again."""
        self._set_paused(False)
        self._tell_queued()

    def _set_paused(self, paused: bool) -> None:
        with self._writing:
            with self._database.write() as connection:
                rows.set_meta(connection, "paused", "true" if paused else "false")
            self._paused = paused

    def delete(self, job_id: str, caller: Caller) -> None:
        """Deletes a job and the pictures that no other job has; one that waits is cancelled first.

        Raises:
            NoSuchJob: there is none, or it is another caller's.
            WrongState: it runs.
        """
        ended: list[Job] = []
        self.get(job_id, caller)
        names = self._retention.second_names([job_id])
        with self._writing:
            live = self._live(job_id, caller)
            if live is None:
                self._stored(job_id, caller)
            elif live.state is JobState.RUNNING:
                raise WrongState(f"the job {job_id!r} is running; cancel it first")
            else:
                ended = self._end([Ending(live=live, state=JobState.CANCELLED)])
            self._retention.delete([job_id], names, self._fresh())
        self._tell_ended(ended)

    def retain(self) -> int:
        """Deletes the jobs that the settings no longer keep, and stray files. Returns how many jobs."""
        due = self._retention.due()
        for part in rows.chunks(due, _AT_ONCE):
            names = self._retention.second_names(part)
            with self._writing:  # not for all at once: clients wait meanwhile
                self._retention.delete(part, names, self._fresh())
            time.sleep(_BREATH)  # a lock that is taken again at once is given to nobody else
        self._retention.sweep()
        return len(due)

    def _fresh(self) -> float | None:
        """The time since which running jobs may have written files, in seconds since 1970."""
        with self._board.lock:
            return min((live.started / 1e6 - 2 for live in self._board.live.values() if live.started), default=None)

    def recover(self) -> int:
        """Takes in the jobs of the database that have not ended; called when the queue is opened.

        Those that ran when the server ended wait again, in their old place; those that were to be cancelled are.
        Returns how many there are.
        """
        open_states = [JobState.QUEUED.value, JobState.RUNNING.value]
        with self._writing:
            with self._database.read() as connection:
                found = connection.execute(select(JOBS).where(JOBS.c.state.in_(open_states))).all()
            jobs = {row.id: _read_live(row) for row in found if row.id not in self._board.live}
            was_running = [row.id for row in found if row.id in jobs and row.state == JobState.RUNNING]
            stopping = [jobs[job_id] for job_id in was_running if jobs[job_id].cancelling]
            with self._database.write() as connection:
                rows.recover_jobs(connection, [job_id for job_id in was_running if not jobs[job_id].cancelling])
            for live in jobs.values():
                if live not in stopping:
                    self._board.queue(live)
            ended = self._end([Ending(live=live, state=JobState.CANCELLED) for live in stopping])
        self._tell_ended(ended)
        self._tell_queued()
        return len(jobs)

    def close(self) -> None:
        """Nothing is handed out any more, every wait and subscription ends."""
        self._board.close()


def _new_live(work: AnyWork, caller: Caller, source: str, priority: int, job_id: str | None) -> Live:
    """A job that has no place yet. Raises `RequestError`."""
    if job_id is not None and not is_id(job_id):
        raise RequestError(f"job id {job_id[:80]!r} does not fit: it is 1 to 64 letters, digits, dots, dashes or _")
    for picture in inputs_of(work):
        if picture.path is not None or picture.sha256 is None:
            raise RequestError("a picture of a job is named by the hash of its pixels, never by a path")
    return Live(
        id=job_id or new_id(), work=work, owner=caller.id, source=source, priority=priority, rank=0, created=0,
        size=pictures_of(work), batch_key=batch_key(work),
    )  # fmt: skip


def _read_live(row: Row[Any]) -> Live:
    work = read_work(row.kind, row.work)
    return Live(
        id=row.id, work=work, owner=row.owner, source=row.source, priority=row.priority, rank=row.rank,
        created=row.created, size=pictures_of(work), batch_key=batch_key(work), attempts=row.attempts,
        crashes=row.crashes, cancelling=row.cancelling,
    )  # fmt: skip


def _checked_priority(priority: int, caller: Caller) -> int:
    if priority not in PRIORITIES:
        raise RequestError(f"priority={priority} does not fit: it is {PRIORITIES[0]} to {PRIORITIES[-1]}")
    if priority > 0 and not caller.admin:
        raise NotAllowed(f"priority={priority} is for an administrator's key; 0 or less is for all")
    return priority


def _body(work: AnyWork, key: str) -> str:
    """What an idempotency key is compared by. Raises `RequestError` for one that does not fit."""
    if _KEY.fullmatch(key) is None:
        raise RequestError("an idempotency key is 1 to 255 visible ASCII characters")
    return hashlib.sha256(f"{work.kind} {write_work(work)}".encode()).hexdigest()
