"""The readers' side of the queue: one job, lists, numbers, and waiting for what happens."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from sqlalchemy import func, select

from wordbrush.serving.store import history
from wordbrush.serving.store.board import told
from wordbrush.serving.store.channel import Feed
from wordbrush.serving.store.errors import NoSuchJob
from wordbrush.serving.store.handing import Handing
from wordbrush.serving.store.history import JobFilter, Page
from wordbrush.serving.store.records import Live, is_id
from wordbrush.serving.store.tables import JOBS
from wordbrush.serving.work import Caller, Job, JobState, StoredPicture


@dataclass(frozen=True, kw_only=True)
class Stats:
    """The queue in numbers.

    Attributes:
        by_state: how many jobs there are in each state, ended ones included.
        by_source: the same, of each door.
        queued: jobs that wait; running: jobs that run.
        pictures_waiting: pictures that the waiting jobs ask for.
        pictures_per_second: of the last minute.
    """

    by_state: dict[str, int]
    by_source: dict[tuple[str, str], int]
    queued: int
    running: int
    pictures_waiting: int
    pictures_per_second: float
    paused: bool


class Looking(Handing):
    """The half of `Jobs` that reads."""

    def get(self, job_id: str, caller: Caller) -> Job:
        """A job as it is now. Raises `NoSuchJob`, also for another caller's."""
        live = self._live(job_id, caller)
        return self._stored(job_id, caller)[0] if live is None else self._board.snapshot(live)

    def list(
        self,
        caller: Caller,
        wanted: JobFilter | None = None,
        *,
        limit: int = 50,
        cursor: str | None = None,
        newest_first: bool = True,
    ) -> Page:
        """A page of the jobs that the caller may see, by the time they came in. Raises as `history.read_page`."""
        with self._database.read() as connection:
            page = history.read_page(
                connection, caller, wanted or JobFilter(), limit=limit, cursor=cursor, newest_first=newest_first
            )
        with self._board.lock:  # what waits or runs is told as it is now
            live = self._board.live
            jobs = tuple(
                self._board.snapshot(live[job.id]) if job.id in live and not job.state.ended else job
                for job in page.jobs
            )
        return Page(jobs=jobs, next_cursor=page.next_cursor, total=page.total)

    def queue(self, caller: Caller) -> tuple[Job, ...]:
        """The caller's jobs that wait, in their order; all of them for an administrator."""
        with self._board.lock:
            return tuple(self._board.snapshot(live) for live in self._board.order if may(caller, live.owner))

    def count(self, caller: Caller) -> int:
        """How many jobs of the caller's own wait or run."""
        with self._board.lock:
            return sum(live.owner == caller.id for live in self._board.live.values())

    def find_picture(self, sha256: str, caller: Caller) -> StoredPicture | None:
        """A picture by its file's hash, if a job that the caller may see has it, be it still running."""
        with self._board.lock:
            for live in self._board.live.values():
                if live.pictures and may(caller, live.owner):
                    for picture in live.pictures.values():
                        if picture.sha256 == sha256:
                            return picture
        if self._store.pictures.place(sha256) is None:
            return None
        with self._database.read() as connection:
            return history.find_picture(connection, sha256, caller)

    def stats(self) -> Stats:
        """The queue in numbers; counts the whole table."""
        columns = (JOBS.c.state, JOBS.c.source)
        with self._database.read() as connection:
            found = connection.execute(select(*columns, func.count()).group_by(*columns)).all()
        by_state = {state.value: 0 for state in JobState}
        for state, _, number in found:
            by_state[state] += number
        with self._board.lock:
            return Stats(
                by_state=by_state,
                by_source={(state, source): number for state, source, number in found},
                queued=len(self._board.order),
                running=self._board.running,
                pictures_waiting=sum(live.size for live in self._board.order),
                pictures_per_second=self._board.pace.lately(),
                paused=self._paused,
            )

    def ahead(self, job_id: str) -> tuple[int, float | None]:
        """How many jobs are before a waiting one, and in how many seconds it begins, if known.

        Of a running one 0 and the seconds it still takes, of any other (0, 0). A coroutine may call it.
        """
        live = self._board.live.get(job_id)
        return (0, 0.0) if live is None else self._board.ahead(live)

    def watched(self, job_id: str) -> bool:
        """Whether someone is subscribed to a job, so that previews are worth making. A coroutine may call it."""
        live = self._board.live.get(job_id)
        return live is not None and live.channel is not None and bool(live.channel.followers)

    def wait(self, job_id: str, timeout: float | None = None) -> Job:
        """Blocks the thread until a job has ended, `timeout` seconds are over, or the server ends.

        Returns the job as it is then. Raises `NoSuchJob`.
        """
        live = self._board.live.get(job_id)
        return self._stored(job_id, None)[0] if live is None else self._board.wait(live, timeout)

    async def wait_async(self, job_id: str, timeout: float | None = None) -> Job:
        """The same in a coroutine."""
        live = self._board.live.get(job_id)
        if live is None:
            return (await asyncio.to_thread(self._stored, job_id, None))[0]
        return await self._board.wait_async(live, timeout)

    def events(self, job_id: str, caller: Caller, last_event_id: int | None = None) -> Feed:
        """Subscribes a coroutine (`async for`) to a job; the last event is the state in which it ended.

        To be called in a thread: a job that has ended is looked up in the database.

        Args:
            last_event_id: what the subscriber heard last; then only what is newer comes. Without it, or when that
                is too long ago, the first event is "state".

        Raises:
            NoSuchJob: there is none, or it is another caller's.
        """
        return self.watch(job_id, caller, last_event_id)

    def watch(
        self, job_id: str, caller: Caller, last_event_id: int | None = None, *, timeout: float | None = None
    ) -> Feed:
        """The same for a thread (`for`), which ends also when nothing happened for `timeout` seconds."""
        live = self._live(job_id, caller)
        if live is None:
            return told(*self._stored(job_id, caller), last_event_id)
        return self._board.feed(live, last_event_id, timeout)

    def _live(self, job_id: str, caller: Caller) -> Live | None:
        live = self._board.live.get(job_id)
        if live is not None and not may(caller, live.owner):
            raise NoSuchJob(job_id)
        return live

    def _stored(self, job_id: str, caller: Caller | None) -> tuple[Job, int]:
        """A job of the database, and the id of its last event."""
        found = None
        if is_id(job_id):
            with self._database.read() as connection:
                found = history.read_one(connection, job_id)
        if found is None or (caller is not None and not may(caller, found[0].owner)):
            raise NoSuchJob(job_id)
        return found


def may(caller: Caller, owner: str) -> bool:
    """Whether a caller may see and change that owner's jobs."""
    return caller.admin or caller.id == owner
