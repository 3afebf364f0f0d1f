"""Whose connection waits for which job: so that a client that sends the same again gets the job it asked for already.

OpenAI's clients give up after a while (600 s) or when a connection breaks, and send the same request again, with a
header that counts the retries. They send no idempotency key. A retry therefore takes over a job of the same caller
that is the same work and that nobody waits for; and a job that nobody takes over within a short time, and that has not
begun, is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool

from wordbrush.errors import WordbrushError
from wordbrush.serving.store import JobFilter
from wordbrush.serving.work import Caller, Generate, Job, JobState

if TYPE_CHECKING:
    from wordbrush.serving.server import Server

SOURCE = "openai"

GRACE = 10.0
"""Seconds after which a queued job that nobody waits for is cancelled; the clients come back within 8."""

RECENT = timedelta(minutes=20)
"""How old a job may be that a retry takes over; the clients' own patience is 10 minutes."""

_STILL_THERE = 1.0  # seconds in which a connection that broke is noticed at the latest
_REMEMBERED = 4096


class Following:
    """The jobs that connections wait for, and those whose pictures were handed over."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._waiting: Counter[str] = Counter()
        self._delivered: OrderedDict[str, None] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    def join(self, job_id: str) -> None:
        """A connection waits for the job from now on."""
        self._waiting[job_id] += 1

    def leave(self, job_id: str, caller: Caller, *, delivered: bool) -> None:
        """It does no longer: because it has the pictures, or knows what went wrong, or because it broke."""
        self._waiting[job_id] -= 1
        if self._waiting[job_id] <= 0:
            del self._waiting[job_id]
        if delivered:
            self._delivered[job_id] = None
            while len(self._delivered) > _REMEMBERED:
                self._delivered.popitem(last=False)
        elif job_id not in self._waiting:
            task = asyncio.create_task(self._forget(job_id, caller))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forget(self, job_id: str, caller: Caller) -> None:
        await asyncio.sleep(GRACE)
        if job_id in self._waiting:
            return
        with contextlib.suppress(WordbrushError):  # it may have been deleted
            job = await run_in_threadpool(self._server.jobs.get, job_id, caller)
            if job.state is JobState.QUEUED:
                await run_in_threadpool(self._server.jobs.cancel, job_id, caller)

    async def take_over(self, works: list[Generate], drawn: set[str], caller: Caller) -> list[Job] | None:
        """The jobs of an earlier try that asked for the same; None where there are none.

        drawn: the seeds that were drawn for this try, and so do not count.
        """
        wanted = [self._likeness(work, drawn) for work in works]
        found, busy = await self._match(wanted, drawn, caller)
        if found is None and busy:  # the broken connection may not have been noticed yet
            await asyncio.sleep(_STILL_THERE)
            found, _ = await self._match(wanted, drawn, caller)
        return found

    async def _match(
        self, wanted: list[dict[str, Any]], drawn: set[str], caller: Caller
    ) -> tuple[list[Job] | None, bool]:
        """The jobs, one for each, and whether a connection still waits for one that would do."""
        recent = JobFilter(sources=(SOURCE,), since=datetime.now(UTC) - RECENT)
        page = await run_in_threadpool(self._server.jobs.list, caller, recent, limit=200)
        left, busy, found = list(page.jobs), False, []
        for likeness in wanted:
            for job in left:
                if job.owner != caller.id or job.state in (JobState.FAILED, JobState.CANCELLED):
                    continue
                if not isinstance(job.work, Generate) or self._likeness(job.work, drawn) != likeness:
                    continue
                if job.id in self._waiting:
                    busy = True
                elif job.id not in self._delivered:
                    found.append(job)
                    left.remove(job)
                    break
        return (found if len(found) == len(wanted) else None), busy

    def _likeness(self, work: Generate, drawn: set[str]) -> dict[str, Any]:
        """What must be equal for two works to be the same request."""
        checked = self._server.catalogue.checked(work)
        assert isinstance(checked, Generate)
        fields = checked.request.to_dict()
        return {name: value for name, value in fields.items() if name not in drawn}
