"""POST /sdapi/v1/txt2img and /img2img: the answer comes when the pictures are there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from wordbrush.conditioning.styles import known_styles, named
from wordbrush.errors import RequestError
from wordbrush.serving.asking import ask
from wordbrush.serving.bodies import picture_from
from wordbrush.serving.errors import Refused
from wordbrush.serving.few_threads import in_few_threads
from wordbrush.serving.guard.caller import caller
from wordbrush.serving.sdapi import requests
from wordbrush.serving.sdapi.answers import encoded, finished, info_of
from wordbrush.serving.sdapi.errors import ANSWERS
from wordbrush.serving.sdapi.fields import Img2Img, Painting, Txt2Img
from wordbrush.serving.sdapi.pictures import PlacedPicture, placed
from wordbrush.serving.sdapi.requests import Order, model_asked, picture_order, placing, text_order
from wordbrush.serving.sdapi.tasks import SOURCE, Task, Tasks
from wordbrush.serving.work import AnyWork, Caller, Generate, Job, JobState

if TYPE_CHECKING:
    from wordbrush.serving.server import Server

KNOWN = [Depends(caller)]
Who = Annotated[Caller, Depends(caller)]

_PICTURES = ("init_images", "mask")


class Painted(BaseModel):
    """The answer of txt2img and img2img."""

    images: list[str]
    """Files as base64, PNG unless the option samples_format says otherwise."""
    parameters: dict[str, Any]
    """What was asked."""
    info: str
    """JSON: what was painted."""


def router(server: Server, tasks: Tasks) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/sdapi/v1", tags=["web UI"], responses=ANSWERS)

    @routes.post("/txt2img", summary="Paint from words", name="sdapi_txt2img")
    async def txt2img(body: Txt2Img, who: Who) -> Painted:
        return await _paint(server, tasks, body, who, lambda beside: text_order(body, beside))

    @routes.post("/img2img", summary="Paint over pictures", name="sdapi_img2img")
    async def img2img(body: Img2Img, who: Who) -> Painted:
        return await _paint(
            server, tasks, body, who, lambda beside: picture_order(body, _pictures(server, body), beside)
        )

    return routes


async def do(server: Server, tasks: Tasks, works: Sequence[Any], who: Caller, name: str | None = None) -> list[Job]:
    """Has works done, as one task of the caller, and waits for all of them.

    Raises:
        Refused: one of them failed, or the server is ending (503).
        RequestError, QueueFull: as `ask`; none of them is then done.
    """
    jobs = await run_in_threadpool(_asked, server, works, who)
    task = tasks.begin(who, [job.id for job in jobs], name)
    try:
        return [await _ended(server, task, job.id, who) for job in jobs]
    finally:
        tasks.end(task)


async def _paint(
    server: Server, tasks: Tasks, body: Painting, who: Caller, order_of: Callable[[requests.Caller], Order]
) -> Painted:
    in_thread = in_few_threads if isinstance(body, Img2Img) else run_in_threadpool
    options, order = await in_thread(_ordered, server, body, who, order_of)
    works = [Generate(request=request) for request in order.requests]
    jobs = await do(server, tasks, works, who, body.force_task_id)
    return await run_in_threadpool(_answer, server, body, order, jobs, options)


def _ordered(
    server: Server, body: Painting, who: Caller, order_of: Callable[[requests.Caller], Order]
) -> tuple[dict[str, Any], Order]:
    options = server.store.options.get(who)
    model = server.catalogue.model(model_asked(body, options))
    if body.styles:  # a worker would find out, but only when it is the job's turn
        known = known_styles()
        for style in body.styles:
            named(style, known)
    beside = requests.Caller(
        options=options, size=server.catalogue.own_size(model.name),
        told_guidance=model.about.get("family") == "flux-dev", most=server.settings.max_pictures,
    )  # fmt: skip
    return options | body.override_settings, order_of(beside)


def _pictures(server: Server, body: Img2Img) -> list[PlacedPicture]:
    """What the client sent, unpacked and brought to its size."""
    size, mode = placing(body)
    if size is not None:
        largest = server.settings.max_side
        if not all(0 < side <= largest for side in size):
            raise RequestError(f"width={size[0]} and height={size[1]} do not fit; each is from 8 to {largest}")
    mask = picture_from(body.mask, server.settings, "mask") if body.mask else None
    hard = body.mask_round is not False
    images = (picture_from(given, server.settings, "init_images") for given in body.init_images or ())
    return [placed(image, mask, size, mode, hard=hard) for image in images]


def _asked(server: Server, works: Sequence[AnyWork], who: Caller) -> list[Job]:
    jobs: list[Job] = []
    try:
        for work in works:
            jobs.append(ask(server, work, who, source=SOURCE))  # noqa: PERF401  those before a failure are wanted
    except Exception:
        for job in jobs:
            server.jobs.cancel(job.id, who)
        raise
    return jobs


async def _ended(server: Server, task: Task, job_id: str, who: Caller) -> Job:
    """The job once it has ended. Raises `Refused` when it failed; the task's other jobs are then cancelled."""
    job = await _until_ended(server, job_id)
    if job is None or not job.state.ended:
        message = "the server is ending; what was asked for is painted when it is back"
        raise Refused(503, "closing", message, {"Retry-After": "5"})
    if job.state != JobState.FAILED:
        return job
    for other in task.jobs:
        if other != job_id:
            await run_in_threadpool(server.jobs.cancel, other, who)
    problem = job.problem
    if problem is None:
        raise Refused(500, "work", "the pictures could not be painted")
    raise Refused(422 if problem.kind in ("request", "model") else 500, problem.kind, problem.message)


async def _until_ended(server: Server, job_id: str) -> Job | None:
    """The job when it has ended; None when the server does first."""
    waiting = asyncio.ensure_future(server.jobs.wait_async(job_id, None))
    over = asyncio.ensure_future(server.ended.wait())
    try:
        await asyncio.wait({waiting, over}, return_when=asyncio.FIRST_COMPLETED)
        return waiting.result() if waiting.done() else None
    finally:
        waiting.cancel()
        over.cancel()


def _answer(server: Server, body: Painting, order: Order, jobs: Sequence[Job], options: Mapping[str, Any]) -> Painted:
    pictures = finished(jobs, server.store)
    echo = body.model_dump()
    if not (isinstance(body, Img2Img) and body.include_init_images):
        echo |= {name: None for name in _PICTURES if name in echo}
    images = [] if body.send_images is False else [encoded(picture, options) for picture in pictures]
    return Painted(images=images, parameters=echo, info=info_of(order, jobs, pictures))
