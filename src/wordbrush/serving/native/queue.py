"""/v1/queue: how long it is, who works on it, and what is done to all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, StrictBool

from wordbrush.serving.errors import Refused, answers
from wordbrush.serving.guard.caller import caller
from wordbrush.serving.native.shapes import QueueAnswer, WorkerAnswer
from wordbrush.serving.work import Caller

if TYPE_CHECKING:
    from wordbrush.serving.server import Server

Who = Annotated[Caller, Depends(caller)]


class QueueChange(BaseModel):
    """What is done to the queue."""

    model_config = ConfigDict(extra="forbid")

    action: Literal["pause", "resume", "cancel"]
    """"pause": what runs is finished, nothing new begins; "resume"; "cancel": all jobs of the caller that wait or
    run. To pause and resume takes an admin's key."""
    keep_partial: StrictBool = False
    """With "cancel": keep the pictures as they stand."""
    everyone: StrictBool = False
    """With "cancel": everybody's jobs, which takes an admin's key."""


class QueueChanged(BaseModel):
    """What that has done."""

    paused: bool
    cancelled: int
    """How many jobs were cancelled."""


def router(server: Server) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1", tags=["queue"])
    jobs = server.jobs

    @routes.get("/queue", summary="How long it is and who works on it", responses=answers(401, 429))
    def read_queue(who: Who) -> QueueAnswer:
        return answer_of(server, who)

    @routes.post("/queue", summary="Pause, resume, cancel all", responses=answers(400, 401, 403, 413, 422, 429))
    def change_queue(who: Who, change: QueueChange) -> QueueChanged:
        cancelled = 0
        if change.action == "cancel":
            cancelled = len(jobs.cancel_all(who, keep_partial=change.keep_partial, everyone=change.everyone))
        elif not who.admin:
            raise Refused(403, "forbidden", f"to {change.action} the queue takes an admin's key")
        elif change.action == "pause":
            jobs.pause()
        else:
            jobs.resume()
        return QueueChanged(paused=jobs.paused, cancelled=cancelled)

    return routes


def answer_of(server: Server, who: Caller) -> QueueAnswer:
    """The queue as it is now; the ids of jobs are an admin's to see."""
    stats = server.jobs.stats()
    workers = [
        WorkerAnswer(
            pid=worker.pid, state=worker.state, device=worker.device, models=dict(worker.models), memory=worker.memory,
            jobs=list(worker.jobs) if who.admin else [],
        )
        for worker in server.dispatcher.status()
    ]  # fmt: skip
    return QueueAnswer(
        paused=stats.paused, queued=stats.queued, running=stats.running, limit=server.settings.queue_limit,
        states=stats.by_state, pictures_waiting=stats.pictures_waiting,
        pictures_per_second=stats.pictures_per_second, waiting=[job.id for job in server.jobs.queue(who)],
        workers=workers,
    )  # fmt: skip
