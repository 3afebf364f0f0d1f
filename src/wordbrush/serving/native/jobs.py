"""/v1/jobs: asked for, listed, followed, cancelled, moved, forgotten."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, ValidationError
from starlette.concurrency import run_in_threadpool as in_thread

from wordbrush.errors import RequestError
from wordbrush.request import GenerationRequest
from wordbrush.request_fields import one_sentence
from wordbrush.serving.asking import ask_async
from wordbrush.serving.bodies import input_from, request_from
from wordbrush.serving.errors import answers
from wordbrush.serving.few_threads import in_few_threads
from wordbrush.serving.guard.caller import caller
from wordbrush.serving.native import schemas
from wordbrush.serving.native.bodies import json_object
from wordbrush.serving.native.shapes import JobAnswer, JobsAnswer, Kind, Source, picture_url, with_urls
from wordbrush.serving.sse import RETRY, event_text, streamed
from wordbrush.serving.store import JobFilter, job_json
from wordbrush.serving.work import AnyWork, Caller, Describe, Event, Explain, Generate, Job, JobState, Upscale

if TYPE_CHECKING:
    from wordbrush.serving.server import Server

Work = TypeVar("Work", Upscale, Explain, Describe)

Who = Annotated[Caller, Depends(caller)]
JobId = Annotated[str, Path(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]
Priority = Annotated[int, Query(ge=-100, le=100, description="Higher is earlier; above 0 is for admins' keys.")]
Key = Annotated[
    str | None,
    Header(
        min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$",
        description="With the same key, the same body is the same job, however often it is sent.",
    ),
]  # fmt: skip

ASKED: dict[int | str, dict[str, Any]] = {
    200: {"model": JobAnswer, "description": "The job that was asked for before with this Idempotency-Key"},
    201: {
        "model": JobAnswer,
        "description": "The job, which waits now",
        "headers": {"Location": {"description": "Where the job is.", "schema": {"type": "string"}}},
    },
    **answers(400, 401, 403, 408, 409, 413, 415, 422, 429, 503),
}
USUAL = answers(401, 403, 404, 422, 429)

EVENTS = """
Server-sent events, until the job has ended. A new subscriber hears the whole job first; who comes back with
`Last-Event-ID` hears what was missed, or the whole job again where that is too long ago. Comments come in between as a
sign of life.

| event | data |
|---|---|
| `state` | the whole job, as `GET /v1/jobs/{id}` answers |
| `position` | `{"position": 3, "eta": 12.5}`: jobs before it, seconds until it begins |
| `progress` | `{"step", "steps", "picture", "pictures", "eta", "phase", "fraction"}` |
| `preview` | `{"index", "mime", "data"}`: a small picture in base64 |
| `picture` | a finished picture |
"""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Cancel(_Body):
    """How to cancel."""

    keep_partial: StrictBool = False
    """Keep the pictures as they stand, with the role "partial"."""


class Move(_Body):
    """Where to."""

    before: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """The id of a job that waits, or "first"; null is the end of the queue."""


class Change(_Body):
    """What is changed."""

    priority: StrictInt = Field(ge=-100, le=100)


def _written_out(value: Any) -> Any:
    """Refuses a bare number, which pydantic would take for seconds since 1970."""
    try:
        float(value)
    except (TypeError, ValueError):
        return value
    raise ValueError("a time is written as 2026-11-26T19:00:00Z")


Time = Annotated[datetime, BeforeValidator(_written_out)]


class History(_Body):
    """What is listed; what is left out does not matter."""

    state: list[JobState] = Field(default=[], description="One or more.")
    source: list[Source] = []
    kind: list[Kind] = []
    model: str | None = Field(default=None, max_length=200)
    text: str | None = Field(default=None, max_length=200, description="Stands in the prompt.")
    since: Time | None = Field(default=None, description="Came in at this time or later.")
    until: Time | None = Field(default=None, description="Came in before this time.")
    limit: int = Field(default=50, ge=1, le=500)
    cursor: str | None = Field(default=None, max_length=200, description="`next_cursor` of the page before.")
    order: Literal["newest", "oldest"] = "newest"

    def filter(self) -> JobFilter:
        """For the store."""
        return JobFilter(
            states=self.state or None, sources=self.source or None, kinds=self.kind or None, model=self.model,
            text=self.text, since=self.since, until=self.until,
        )  # fmt: skip


def router(server: Server) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1", tags=["jobs"])
    _asking(routes, server)
    _reading(routes, server)
    _changing(routes, server)
    return routes


def _asking(routes: APIRouter, server: Server) -> None:
    settings = server.settings

    async def answer(work: AnyWork, who: Caller, priority: int, key: str | None) -> Any:
        began = datetime.now(UTC)
        job = await ask_async(server, work, who, source="v1", priority=priority, idempotency_key=key)
        data = with_urls(job_json(job), base_of(server))
        before = key is not None and job.created < began
        return JSONResponse(data, status_code=200 if before else 201, headers={"Location": f"/v1/jobs/{job.id}"})

    @routes.post(
        "/jobs", summary="Ask for pictures", response_model=JobAnswer, status_code=201, responses=ASKED,
        openapi_extra=schemas.body(schemas.request_schema(settings), schemas.EXAMPLE),
    )  # fmt: skip
    async def generate(
        request: Request, who: Who, priority: Priority = 0, idempotency_key: Key = None
    ) -> Any:
        fields = await json_object(request)
        return await answer(Generate(request=await _request(fields, server)), who, priority, idempotency_key)

    @routes.post(
        "/jobs/upscale", summary="Ask for larger pictures", response_model=JobAnswer, status_code=201,
        responses=ASKED, openapi_extra=schemas.body(schemas.upscale_schema(settings)),
    )  # fmt: skip
    async def upscale(request: Request, who: Who, priority: Priority = 0, idempotency_key: Key = None) -> Any:
        fields = await json_object(request)
        given = fields.get("images")
        if not isinstance(given, list) or not 1 <= len(given) <= min(64, settings.max_pictures):
            raise RequestError(f"images is a list of 1 to {min(64, settings.max_pictures)} pictures; give that")
        _refuse_loose(fields, ("scale", "width", "height", "crop"))
        fields["images"] = tuple([await in_few_threads(input_from, image, server, "images") for image in given])
        return await answer(work_of(Upscale, fields), who, priority, idempotency_key)

    @routes.post(
        "/jobs/explain", summary="Ask for a picture and how it came about", response_model=JobAnswer,
        status_code=201, responses=ASKED, openapi_extra=schemas.body(schemas.explain_schema(settings)),
    )  # fmt: skip
    async def explain(request: Request, who: Who, priority: Priority = 0, idempotency_key: Key = None) -> Any:
        fields = await json_object(request)
        if not isinstance(fields.get("request"), dict):
            raise RequestError("request is missing, or no object; give the generation request to explain")
        _refuse_loose(fields, ("columns",))
        fields["request"] = await _request(fields["request"], server)
        return await answer(work_of(Explain, fields), who, priority, idempotency_key)

    @routes.post(
        "/jobs/describe", summary="Ask what a picture shows", response_model=JobAnswer, status_code=201,
        responses=ASKED, openapi_extra=schemas.body(schemas.DESCRIBE),
    )  # fmt: skip
    async def describe(request: Request, who: Who, priority: Priority = 0, idempotency_key: Key = None) -> Any:
        fields = await json_object(request)
        if fields.get("image") is None:
            raise RequestError("image is missing; give it")
        fields["image"] = await in_few_threads(input_from, fields["image"], server, "image")
        return await answer(work_of(Describe, fields), who, priority, idempotency_key)


async def _request(fields: dict[str, Any], server: Server) -> GenerationRequest:
    """The request of these fields; in a thread that pictures may take long in, if there are any."""
    call = in_few_threads if fields.get("image") or fields.get("mask") else in_thread
    return await call(request_from, fields, server)


def _reading(routes: APIRouter, server: Server) -> None:
    jobs = server.jobs

    @routes.get("/jobs", summary="The history, newest first", responses=answers(401, 422, 429))
    def history(who: Who, asked: Annotated[History, Query()]) -> JobsAnswer:
        newest = asked.order == "newest"
        page = jobs.list(who, asked.filter(), limit=asked.limit, cursor=asked.cursor, newest_first=newest)
        listed = [JobAnswer.model_validate(with_urls(job_json(job), base_of(server))) for job in page.jobs]
        return JobsAnswer(jobs=listed, next_cursor=page.next_cursor, total=page.total)

    @routes.get("/jobs/{job_id}", summary="A job as it is now", response_model=JobAnswer, responses=USUAL)
    async def read(
        job_id: JobId,
        who: Who,
        wait: Annotated[float, Query(ge=0, le=300, description="Wait so many seconds for its end.")] = 0,
    ) -> Any:
        job = await in_thread(jobs.get, job_id, who)
        if wait and not job.state.ended:
            job = await jobs.wait_async(job_id, wait)
        return _job(server, job)

    @routes.get(
        "/jobs/{job_id}/events", summary="Follow a job", description=EVENTS, response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {}}}, **USUAL},
    )  # fmt: skip
    async def follow(
        job_id: JobId,
        who: Who,
        last_event_id: Annotated[str | None, Header(max_length=32)] = None,
    ) -> StreamingResponse:
        last = int(last_event_id) if last_event_id and last_event_id.isascii() and last_event_id.isdigit() else None
        events = await in_thread(jobs.events, job_id, who, last)  # one that is not there is an answer, not a stream
        return streamed(_event_texts(events, base_of(server)), server.ended)


def _changing(routes: APIRouter, server: Server) -> None:
    jobs = server.jobs
    changing = {**USUAL, **answers(400, 409, 413)}

    @routes.post(
        "/jobs/{job_id}/cancel", summary="Cancel: at once, or within one step", response_model=JobAnswer,
        responses=changing,
    )  # fmt: skip
    def cancel(job_id: JobId, who: Who, how: Cancel | None = None) -> Any:
        return _job(server, jobs.cancel(job_id, who, keep_partial=how is not None and how.keep_partial))

    @routes.post(
        "/jobs/{job_id}/move", summary="Move within the queue", response_model=JobAnswer, responses=changing
    )
    def move(job_id: JobId, who: Who, where: Move) -> Any:
        before = where.before
        if before == "first":
            waiting = jobs.queue(who)
            before = waiting[0].id if waiting else None
        return _job(server, jobs.move(job_id, who, before=before))

    @routes.patch("/jobs/{job_id}", summary="Change the priority", response_model=JobAnswer, responses=changing)
    def change(job_id: JobId, who: Who, what: Change) -> Any:
        return _job(server, jobs.set_priority(job_id, who, what.priority))

    @routes.delete(
        "/jobs/{job_id}", summary="Delete an ended job and its pictures", status_code=204, responses=changing
    )
    def delete(job_id: JobId, who: Who) -> Response:
        jobs.delete(job_id, who)
        return Response(status_code=204)


async def _event_texts(events: AsyncIterator[Event], base: str) -> AsyncIterator[bytes]:
    retry: int | None = RETRY
    async for event in events:
        data = event.data
        if event.type == "state":
            data = with_urls(data, base)
        elif event.type == "picture":
            data = {**data, "url": picture_url(base, data["sha256"])}
        yield event_text(data, event=event.type, id=event.id, retry=retry)
        retry = None


def work_of(kind: type[Work], fields: dict[str, Any]) -> Work:
    """Work of a client's fields, whose pictures are stored inputs already.

    Raises:
        RequestError: one does not fit.
    """
    try:
        return kind(**fields)
    except ValidationError as error:
        raise RequestError(one_sentence(error, kind)) from error


def _refuse_loose(fields: dict[str, Any], names: tuple[str, ...]) -> None:
    """A number that is written as text is not taken for one."""
    for name in names:
        if isinstance(fields.get(name), str):
            raise RequestError(f"{name}={fields[name][:60]!r} does not fit: it is text; write it without quotes")


def base_of(server: Server) -> str:
    """What addresses of pictures begin with."""
    return (server.settings.public_url or "").rstrip("/")


def _job(server: Server, job: Job) -> JSONResponse:
    return JSONResponse(with_urls(job_json(job), base_of(server)))
