"""The web application, put together: our own API, the two that the world's clients speak, and the studio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import structlog
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

import wordbrush
from wordbrush.serving import docs, errors, guard, health, login, native, openai, sdapi
from wordbrush.serving.access import Access
from wordbrush.serving.metrics import Metrics
from wordbrush.serving.server import MakePainters, Painters, Server
from wordbrush.serving.settings import Settings
from wordbrush.serving.store import Jobs, Store
from wordbrush.serving.work import Job

__all__ = ["Server", "create_app"]

log = structlog.get_logger("wordbrush.serving")

RETAIN_EVERY = 3600.0
"""Seconds between two looks at what is past its time."""

ABOUT = """
Every request becomes a **job** at once. `POST /v1/jobs` takes a generation request as its body; the job's progress,
previews and pictures come as server-sent events from `/v1/jobs/{id}/events`, and its pictures lie at
`/v1/images/{sha256}.png`.

Beside it: the OpenAI Images API below `/v1/images/`, and the API of AUTOMATIC1111's web UI below `/sdapi/v1/`.
"""


def create_app(settings: Settings, make_painters: MakePainters | None = None) -> FastAPI:
    """The application; its parts are `app.state.server`. Its lifespan starts the workers and ends them.

    make_painters: makes what hands out the work; None is the dispatcher of worker processes.

    Raises:
        RequestError: the data folder or the database cannot be used.
    """
    server = Server(settings, make_painters or _dispatcher)
    metrics = Metrics(server)
    server.jobs.on_ended(_log_ended)
    app = FastAPI(
        title="Wordbrush", version=str(wordbrush.__version__), description=ABOUT, lifespan=_lifespan(server),
        docs_url=None, redoc_url=None, openapi_url="/openapi.json", separate_input_output_schemas=False,
        generate_unique_id_function=lambda route: route.name,
    )  # fmt: skip
    app.state.server = server
    errors.register(app)
    guard.install(app, server)
    app.add_middleware(Access, metrics=metrics)  # the last one added is the outermost
    for router in (
        native.router(server), openai.router(server), sdapi.router(server), health.router(server, metrics),
        docs.router(app), login.router(server),
    ):  # fmt: skip
        app.include_router(router)
    if settings.studio:
        _mount_studio(app, server)
    return app


def _dispatcher(jobs: Jobs, store: Store, settings: Settings) -> Painters:
    from wordbrush.serving.workers.dispatcher import Dispatcher

    return Dispatcher(jobs, store, settings)


def _mount_studio(app: FastAPI, server: Server) -> None:
    try:
        from wordbrush import studio
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("wordbrush"):
            raise
        log.warning("there is no studio: the extra is not installed", missing=error.name)
        return
    studio.mount(app, server)


def _lifespan(server: Server) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(server.start)
        retaining = asyncio.create_task(_retain(server))
        try:
            yield
        finally:
            retaining.cancel()
            await run_in_threadpool(server.drain)
            server.ended.set()
            await run_in_threadpool(server.close)

    return lifespan


async def _retain(server: Server) -> None:
    """Deletes what is past its time, now and every hour."""
    while True:
        try:
            await run_in_threadpool(server.jobs.retain)
        except Exception as error:
            log.error("old jobs could not be deleted", exc_info=error)
        await asyncio.sleep(RETAIN_EVERY)


def _log_ended(job: Job) -> None:
    seconds = (job.finished - job.started).total_seconds() if job.finished and job.started else None
    log.info(
        "job ended", job=job.id, state=str(job.state), kind=job.work.kind, source=job.source, key=job.owner,
        seconds=seconds, pictures=len(job.pictures), problem=None if job.problem is None else job.problem.message,
    )  # fmt: skip
