"""`POST /v1/images/generations`, `/v1/images/edits` and `/v1/images/variations`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from starlette.concurrency import run_in_threadpool

from wordbrush.errors import RequestError, WordbrushError
from wordbrush.serving import sse
from wordbrush.serving.asking import ask_async
from wordbrush.serving.errors import Refused
from wordbrush.serving.few_threads import in_few_threads
from wordbrush.serving.guard.caller import caller
from wordbrush.serving.openai import documented
from wordbrush.serving.openai.errors import NO_RETRY, of_request
from wordbrush.serving.openai.following import SOURCE, Following
from wordbrush.serving.openai.forms import Form, read_form, read_json
from wordbrush.serving.openai.parameters import Asked, Endpoint, understood
from wordbrush.serving.openai.replies import Images, images_of
from wordbrush.serving.openai.requests import works_of
from wordbrush.serving.openai.streaming import PictureStream, stopped
from wordbrush.serving.store import IdempotencyConflict
from wordbrush.serving.work import Caller, Generate, Job, JobState

if TYPE_CHECKING:
    from wordbrush.serving.server import Server

_LOOK_EVERY = 30.0  # seconds; a wait is woken by the job's end, this only bounds it


def router(server: Server) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1/images", tags=["OpenAI images"])
    images = _Images(server)

    @routes.post("/generations", summary="Paint from a text", **documented.route("generations"))
    async def generations(request: Request, who: Annotated[Caller, Depends(caller)]) -> Response:
        return await images.answer(request, who, "generations", read_json)

    @routes.post("/edits", summary="Change a picture, under a mask if there is one", **documented.route("edits"))
    async def edits(request: Request, who: Annotated[Caller, Depends(caller)]) -> Response:
        return await images.answer(request, who, "edits", read_form)

    @routes.post("/variations", summary="More pictures like one", **documented.route("variations"))
    async def variations(request: Request, who: Annotated[Caller, Depends(caller)]) -> Response:
        return await images.answer(request, who, "variations", read_form)

    return routes


class _Images:
    """What the three have in common."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._following = Following(server)

    async def answer(
        self, request: Request, who: Caller, endpoint: Endpoint, read: Callable[[Request], Awaitable[Form]]
    ) -> Response:
        """Reads, asks, waits, answers.

        Raises:
            Refused, QueueFull and others that `serving.errors` answers.
        """
        form = await read(request)
        asked = understood(form.fields, endpoint)
        try:
            in_thread = in_few_threads if form.files or "image" in form.fields else run_in_threadpool
            works = await in_thread(works_of, asked, form.files, self._server)
            jobs = await self._jobs(request, who, asked, works)
        except RequestError as error:
            raise of_request(error) from error
        if asked.stream:
            stream = PictureStream(self._server, self._following, asked, who)
            return sse.streamed(stream.texts(jobs[0]), self._server.ended)
        reply = await self._waited_for(request, who, asked, jobs)
        if reply is None:
            return Response(status_code=499)  # nobody reads it
        return Response(reply.model_dump_json(exclude_none=True), media_type="application/json")

    async def _jobs(self, request: Request, who: Caller, asked: Asked, works: list[Generate]) -> list[Job]:
        """The jobs of the request: new ones, or those of an earlier try of the client's."""
        if request.headers.get("x-stainless-retry-count", "0").strip() not in ("", "0"):
            drawn = set[str]() if "seed" in asked.fields else {"seed", "variation_seed"}
            found = await self._following.take_over(works, drawn, who)
            if found is not None:
                return found
        key = request.headers.get("idempotency-key") or None
        jobs: list[Job] = []
        try:
            for index, work in enumerate(works):
                each = key if key is None or len(works) == 1 else f"{key}#{index}"
                jobs.append(await ask_async(self._server, work, who, source=SOURCE, idempotency_key=each))
        except IdempotencyConflict as error:
            raise Refused(409, "conflict", str(error), NO_RETRY) from error
        except WordbrushError:
            for job in jobs:
                await run_in_threadpool(self._server.jobs.cancel, job.id, who)
            raise
        return jobs

    async def _waited_for(self, request: Request, who: Caller, asked: Asked, jobs: list[Job]) -> Images | None:
        """The answer once the jobs are done; None when the client has gone. Raises `Refused` when one was not done."""
        for job in jobs:
            self._following.join(job.id)
        delivered = False
        gone = asyncio.create_task(_until_gone(request))
        over = asyncio.create_task(self._server.ended.wait())
        try:
            ended = [await self._one(job, gone, over) for job in jobs]
            reply = None
            if not gone.done():
                for job in ended:
                    if job.state is not JobState.DONE:
                        raise stopped(job)
                reply = await run_in_threadpool(images_of, ended, asked, self._server, self._base(request))
            delivered = not gone.done()  # as far as can be known: it may have gone while its pictures were converted
            return reply
        finally:
            gone.cancel()
            over.cancel()
            for job in jobs:
                self._following.leave(job.id, who, delivered=delivered)

    async def _one(self, job: Job, gone: asyncio.Task[Any], over: asyncio.Task[Any]) -> Job:
        """The job when it has ended, or as it is when the client has gone or the server ends."""
        while not job.state.ended and not gone.done() and not over.done():
            waiting = asyncio.ensure_future(self._server.jobs.wait_async(job.id, _LOOK_EVERY))
            await asyncio.wait({waiting, gone, over}, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                job = waiting.result()
            else:
                waiting.cancel()
        return job

    def _base(self, request: Request) -> str:
        """What addresses begin with; the Host of the request was checked at the door."""
        return (self._server.settings.public_url or str(request.base_url)).rstrip("/")


async def _until_gone(request: Request) -> None:
    """Returns when the client has closed the connection; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
