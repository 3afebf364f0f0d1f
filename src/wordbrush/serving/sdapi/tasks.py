"""Calls that are under way: which jobs belong together, what was said about them, and their latest preview.

The queue knows jobs; a client of this API asks after "what I am doing". So each call is a task: its jobs, and the name
that the client gave it (`force_task_id`). A task lives in memory: after a restart its jobs go on as tasks of their own.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool

from wordbrush.serving.store.jobs import JobFilter, NoSuchJob
from wordbrush.serving.work import Caller, Job, JobState

if TYPE_CHECKING:
    from wordbrush.serving.store.jobs import Jobs

SOURCE = "sdapi"

_REMEMBERED = 1000
"""Ended tasks of which it is still known that they ended."""

_MOST_LISTED = 200


@dataclass
class Task:
    """One call of a client.

    Attributes:
        jobs: ids, in the order of the pictures.
        preview: the latest, JPEG as base64; previews counts them. Only once somebody asks are they made.
    """

    id: str
    owner: str
    jobs: tuple[str, ...]
    skipped: bool = False
    interrupted: bool = False
    preview: str | None = None
    previews: int = 0
    watched: bool = False
    ended: bool = field(default=False)


class Tasks:
    """The tasks of every caller; used in the event loop alone."""

    def __init__(self, jobs: Jobs) -> None:
        self._queue = jobs
        self._tasks: OrderedDict[tuple[str, str], Task] = OrderedDict()
        self._of_job: dict[str, Task] = {}
        self._watchers: set[asyncio.Task[None]] = set()

    def begin(self, caller: Caller, jobs: Sequence[str], name: str | None) -> Task:
        """A new task. One of the caller's that has the same name is forgotten, its jobs go on."""
        task = Task(id=name or f"task({secrets.token_hex(8)})", owner=caller.id, jobs=tuple(jobs))
        self._forget((caller.id, task.id))
        self._tasks[caller.id, task.id] = task
        self._of_job |= dict.fromkeys(task.jobs, task)
        while len(self._tasks) > _REMEMBERED:
            ended = next((key for key, other in self._tasks.items() if other.ended), next(iter(self._tasks)))
            self._forget(ended)
        return task

    def end(self, task: Task) -> None:
        """Its jobs are over: it is only remembered that it was there."""
        task.ended, task.preview = True, None
        for job in task.jobs:
            self._of_job.pop(job, None)

    def named(self, caller: Caller, name: str) -> Task | None:
        """The caller's task of that name."""
        return self._tasks.get((caller.id, name))

    def under_way(self, caller: Caller) -> list[tuple[Task, list[Job]]]:
        """The caller's tasks with their jobs that have not ended: those that run, then those that wait. Blocks."""
        wanted = JobFilter(states=(JobState.RUNNING, JobState.QUEUED), sources=(SOURCE,), owner=caller.id)
        page = self._queue.list(caller, wanted, limit=_MOST_LISTED, cursor=None, newest_first=False)
        found: dict[str, tuple[Task, list[Job]]] = {}
        for job in sorted(page.jobs, key=lambda job: (job.state != JobState.RUNNING, job.id)):
            task = self._of_job.get(job.id) or Task(id=job.id, owner=caller.id, jobs=(job.id,))
            found.setdefault(task.id, (task, []))[1].append(job)
        return list(found.values())

    def all_jobs(self, task: Task, caller: Caller) -> list[Job]:
        """The jobs of a task, ended ones too; without those that were deleted. Blocks."""
        found = []
        for job_id in task.jobs:
            try:
                found.append(self._queue.get(job_id, caller))
            except NoSuchJob:
                continue
        return found

    def watch(self, task: Task, caller: Caller) -> None:
        """Has previews made of the task from now on; they are kept in it. Harmless the second time."""
        if not task.watched and not task.ended:
            task.watched = True
            watcher = asyncio.create_task(self._follow(task, caller))
            self._watchers.add(watcher)  # the event loop itself holds tasks only weakly
            watcher.add_done_callback(self._watchers.discard)

    async def _follow(self, task: Task, caller: Caller) -> None:
        for job_id in task.jobs:
            try:
                async for event in await run_in_threadpool(self._queue.events, job_id, caller):
                    if event.type == "preview" and not task.ended:
                        task.preview, task.previews = event.data["data"], task.previews + 1
            except NoSuchJob:
                continue

    def _forget(self, key: tuple[str, str]) -> None:
        task = self._tasks.pop(key, None)
        if task is not None:
            for job in task.jobs:
                self._of_job.pop(job, None)
