"""Following a job while it runs: what its events say, as one value that a page can draw."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool

from wordbrush.errors import WordbrushError
from wordbrush.serving.work import Caller, Job, JobState
from wordbrush.studio import markup

if TYPE_CHECKING:
    from wordbrush.serving.server import Server
    from wordbrush.studio.session import Seat


@dataclass(frozen=True, kw_only=True)
class View:
    """A job as a page shows it.

    Attributes:
        ahead: jobs before it in the queue; None unless it waits.
        fraction: 0 to 1; below 0 while that is not known.
        preview: data URL of the picture as it stands, by index.
        pictures: finished ones, as the JSON of `StoredPicture`.
        problem: one sentence, when it failed.
    """

    id: str
    state: JobState
    ahead: int | None = None
    fraction: float = -1.0
    step: int = 0
    steps: int = 0
    eta: float | None = None
    phase: str = ""
    preview: dict[int, str] = field(default_factory=dict)
    pictures: tuple[dict[str, Any], ...] = ()
    problem: str | None = None
    notes: tuple[str, ...] = ()
    output: dict[str, Any] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.state.ended

    @property
    def label(self) -> str:
        """Where it stands, in words."""
        if self.state is JobState.QUEUED:
            if not self.ahead:
                return "Next in the queue"
            return f"{self.ahead} {'job' if self.ahead == 1 else 'jobs'} ahead in the queue"
        if self.state is JobState.RUNNING:
            if self.phase == "loading":
                return "Loading the model"
            if self.phase == "decoding":
                return "Finishing the picture"
            if not self.steps:
                return "Starting"
            left = "" if self.eta is None else f" · {seconds(self.eta)} left"
            return f"Step {self.step} of {self.steps}{left}"
        return {JobState.DONE: "Done", JobState.FAILED: "Failed", JobState.CANCELLED: "Cancelled"}[self.state]


def seconds(value: float) -> str:
    """A time span for people: 0.4 s, 12 s, 3 min."""
    if value < 10:
        return f"{value:.1f} s"
    return f"{value:.0f} s" if value < 100 else f"{value / 60:.0f} min"


def progress_html(view: View) -> str:
    """The progress bar of a running job; nothing once it ended."""
    return "" if view.ended else markup.bar(view.fraction, view.label)


async def follow(server: Server, job: Job, caller: Caller) -> AsyncIterator[View]:
    """The job's views, the last one when it ended.

    A consumer that stops (a closed tab, a cancelled event) cancels the job.
    """
    view = View(id=job.id, state=job.state)
    try:
        async for event in await run_in_threadpool(server.jobs.events, job.id, caller):
            view = _after(view, event.type, event.data)
            yield view
            if view.ended:
                return
    finally:
        if not view.ended:
            cancel_soon(server, job.id, caller)


async def attended(server: Server, job: Job, caller: Caller, seat: Seat) -> AsyncIterator[View]:
    """`follow`, for a job that a page has put among its seat's; it is taken out there when it ends."""
    try:
        async for view in follow(server, job, caller):
            if view.ended:
                seat.jobs.pop(job.id, None)
            yield view
    finally:
        seat.jobs.pop(job.id, None)


def stop(server: Server, seat: Seat, caller: Caller, kinds: Collection[str], *, keep_partial: bool = False) -> None:
    """Cancels what a page is painting, of the kinds that its buttons are called in the seat."""
    for job_id in [job_id for job_id, kind in list(seat.jobs.items()) if kind in kinds]:
        cancel_soon(server, job_id, caller, keep_partial=keep_partial)


def last_words(view: View, cancelled: str = "Cancelled.") -> str:
    """The sentences, as HTML, that an ended job leaves: why it has no more to show, then its notes."""
    notes = "".join(markup.notice(markup.capital(note)) for note in view.notes)
    if view.state is JobState.FAILED:
        return markup.notice(markup.capital(view.problem or "it failed"), alarm=True) + notes
    return markup.notice(cancelled) + notes if view.state is JobState.CANCELLED else notes


def cancel_soon(server: Server, job_id: str, caller: Caller, *, keep_partial: bool = False) -> None:
    """Cancels a job without waiting for it; one that is gone or has ended already is left as it is."""

    def cancel() -> None:
        with contextlib.suppress(WordbrushError):
            server.jobs.cancel(job_id, caller, keep_partial=keep_partial)

    try:
        asyncio.get_running_loop().run_in_executor(None, cancel)
    except RuntimeError:  # called from a thread of Gradio's, which may wait
        cancel()


def _after(view: View, kind: str, data: dict[str, Any]) -> View:
    """The view after one event."""
    if kind == "state":
        problem = data.get("problem") or {}
        changed = replace(
            view,
            state=JobState(data["state"]),
            ahead=data.get("position"),
            pictures=tuple(data.get("pictures") or ()),
            problem=problem.get("message"),
            notes=tuple(data.get("notes") or ()),
            output=data.get("output") or {},
        )
        return _progressed(changed, data["progress"]) if data.get("progress") else changed
    if kind == "position":
        return replace(view, ahead=data.get("position"))
    if kind == "progress":
        return _progressed(replace(view, state=JobState.RUNNING), data)
    if kind == "preview":
        address = f"data:{data['mime']};base64,{data['data']}"
        return replace(view, preview={**view.preview, int(data["index"]): address})
    if kind == "picture":
        others = [each for each in view.pictures if (each["role"], each["index"]) != (data["role"], data["index"])]
        return replace(view, pictures=(*others, data))
    return view


def _progressed(view: View, data: dict[str, Any]) -> View:
    step, steps = int(data.get("step") or 0), int(data.get("steps") or 0)
    fraction = min(1.0, step / steps) if steps else -1.0
    return replace(
        view, fraction=fraction, step=step, steps=steps, eta=data.get("eta"), phase=str(data.get("phase") or "")
    )
