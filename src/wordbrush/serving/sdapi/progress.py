"""How far the caller's painting is, and how it is ended: progress, interrupt, skip, and the page's own /internal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool

from wordbrush.serving.errors import not_found
from wordbrush.serving.sdapi.errors import ANSWERS
from wordbrush.serving.sdapi.fields import TaskProgress
from wordbrush.serving.sdapi.painting import Who
from wordbrush.serving.sdapi.tasks import Task, Tasks
from wordbrush.serving.work import Caller, Job, JobState

if TYPE_CHECKING:
    from wordbrush.serving.server import Server

TaskName = Annotated[str | None, Query(max_length=200, description="The force_task_id of one call alone.")]


@dataclass(frozen=True, kw_only=True)
class State:
    """A task at one moment, in the web UI's numbers.

    Attributes:
        fraction: 0 to 1; left: seconds, 0 where it is not known.
        number: of the job that runs, from 0.
        running: the first job that does; None while all wait.
    """

    task: Task
    fraction: float
    left: float
    number: int
    running: Job | None
    created: str

    @classmethod
    def of(cls, task: Task, jobs: Sequence[Job]) -> State:
        """jobs: all of the task's that are known."""
        running = next((job for job in jobs if job.state == JobState.RUNNING), None)
        number = jobs.index(running) if running is not None else sum(job.state.ended for job in jobs)
        fraction = sum(map(_fraction, jobs)) / max(1, len(jobs))
        starts = [job.started.timestamp() for job in jobs if job.started is not None]
        spent = time.time() - min(starts) if starts else 0.0
        return cls(
            task=task, fraction=fraction, left=max(0.0, spent / fraction - spent) if fraction else 0.0,
            number=number, running=running, created=jobs[0].created.strftime("%Y%m%d%H%M%S") if jobs else "0",
        )  # fmt: skip

    @property
    def words(self) -> str:
        """For a person."""
        if self.running is None:
            return "Waiting in the queue"
        told = self.running.progress
        return {"loading": "Loading the model", "decoding": "Decoding"}.get(told.phase if told else "", "Painting")

    def json(self) -> dict[str, Any]:
        """The `state` of an answer."""
        told = None if self.running is None else self.running.progress
        many = len(self.task.jobs)
        return {
            "skipped": self.task.skipped, "interrupted": self.task.interrupted, "stopping_generation": False,
            "job": f"Batch {self.number + 1} out of {many}", "job_count": many, "job_timestamp": self.created,
            "job_no": self.number, "sampling_step": told.step if told else 0,
            "sampling_steps": told.steps if told else 0,
        }  # fmt: skip


IDLE: dict[str, Any] = {
    "skipped": False, "interrupted": False, "stopping_generation": False, "job": "", "job_count": 0,
    "job_timestamp": "0", "job_no": 0, "sampling_step": 0, "sampling_steps": 0,
}  # fmt: skip


def router(server: Server, tasks: Tasks) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["web UI"], responses=ANSWERS)

    @routes.get("/sdapi/v1/progress", summary="How far is my painting?", name="sdapi_progress")
    async def progress(who: Who, skip_current_image: bool = False, id_task: TaskName = None) -> dict[str, Any]:
        state = await run_in_threadpool(_current, tasks, who, id_task)
        if state is None:
            return {
                "progress": 0.0, "eta_relative": 0.0, "state": IDLE, "current_image": None, "textinfo": None,
                "current_task": None,
            }  # fmt: skip
        if not skip_current_image:
            tasks.watch(state.task, who)
        return {
            "progress": state.fraction, "eta_relative": state.left, "state": state.json(),
            "current_image": None if skip_current_image else state.task.preview, "textinfo": state.words,
            "current_task": state.task.id,
        }  # fmt: skip

    @routes.post("/sdapi/v1/interrupt", summary="End what is painted for me, and answer with what there is",
                 name="sdapi_interrupt")  # fmt: skip
    async def interrupt(who: Who, id_task: TaskName = None) -> dict[str, Any]:
        await run_in_threadpool(_interrupt, server, tasks, who, id_task)
        return {}

    @routes.post("/sdapi/v1/skip", summary="End this batch of what is painted for me, and go on with the next",
                 name="sdapi_skip")  # fmt: skip
    async def skip(who: Who, id_task: TaskName = None) -> None:
        await run_in_threadpool(_skip, server, tasks, who, id_task)

    @routes.post("/internal/progress", summary="How far is the task of that name?", name="internal_progress")
    async def task_progress(body: TaskProgress, who: Who) -> dict[str, Any]:
        return await _task_progress(tasks, who, body)

    @routes.get("/internal/pending-tasks", summary="What of mine waits or runs?", name="internal_pending_tasks")
    async def pending(who: Who) -> dict[str, Any]:
        under_way = await run_in_threadpool(tasks.under_way, who)
        return {"size": len(under_way), "tasks": [task.id for task, _ in under_way]}

    return routes


def _chosen(tasks: Tasks, who: Caller, name: str | None) -> list[tuple[Task, list[Job]]]:
    """The tasks of that name; without one those that run, or else those that wait."""
    under_way = tasks.under_way(who)
    if name is not None:
        found = [(task, jobs) for task, jobs in under_way if task.id == name]
        if not found and tasks.named(who, name) is None:
            raise not_found(f"task {name!r}")
        return found
    return [each for each in under_way if _running(each[1])] or under_way


def _running(jobs: Sequence[Job]) -> list[Job]:
    return [job for job in jobs if job.state == JobState.RUNNING]


def _current(tasks: Tasks, who: Caller, name: str | None) -> State | None:
    """The first of the caller's tasks, or that of a name, while it is under way."""
    chosen = _chosen(tasks, who, name)
    return State.of(chosen[0][0], tasks.all_jobs(chosen[0][0], who)) if chosen else None


def _interrupt(server: Server, tasks: Tasks, who: Caller, name: str | None) -> None:
    for task, jobs in _chosen(tasks, who, name):
        task.interrupted = True
        for job in sorted(jobs, key=lambda job: job.state == JobState.RUNNING):  # lest those that wait are begun
            server.jobs.cancel(job.id, who, keep_partial=True)


def _skip(server: Server, tasks: Tasks, who: Caller, name: str | None) -> None:
    for task, jobs in _chosen(tasks, who, name):
        for job in _running(jobs)[:1]:
            task.skipped = True
            server.jobs.cancel(job.id, who, keep_partial=True)


async def _task_progress(tasks: Tasks, who: Caller, body: TaskProgress) -> dict[str, Any]:
    """What the web UI's own page asks: of a task by its name, with the preview if there is a newer one."""
    name = body.id_task or ""
    known = tasks.named(who, name)
    state = await run_in_threadpool(_current, tasks, who, name) if known is not None else None
    found: dict[str, Any] = {
        "active": False, "queued": False, "completed": known is not None and known.ended, "progress": None,
        "eta": None, "live_preview": None, "id_live_preview": body.id_live_preview, "textinfo": None,
    }  # fmt: skip
    if state is None:
        return found
    found |= {
        "active": state.running is not None, "queued": state.running is None, "progress": state.fraction,
        "eta": state.left, "textinfo": state.words,
    }  # fmt: skip
    if body.live_preview:
        tasks.watch(state.task, who)
        if state.task.preview is not None and state.task.previews != body.id_live_preview:
            found["live_preview"] = f"data:image/jpeg;base64,{state.task.preview}"
            found["id_live_preview"] = state.task.previews
    return found


def _fraction(job: Job) -> float:
    if job.state.ended:
        return 1.0
    return job.progress.fraction if job.progress is not None else 0.0
