"""Is it alive, can it work, and how does it do: `/healthz`, `/readyz`, `/metrics`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from fastapi import APIRouter, Depends, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

import wordbrush
from wordbrush.errors import WordbrushError
from wordbrush.serving.errors import answers
from wordbrush.serving.guard.caller import caller

if TYPE_CHECKING:
    from wordbrush.serving.metrics import Metrics
    from wordbrush.serving.server import Server


class Health(BaseModel):
    """That it answers at all."""

    status: Literal["ok"]
    version: str


class Readiness(BaseModel):
    """Whether a job that is asked for now would be painted; `problems` says why not."""

    status: Literal["ready", "not ready"]
    problems: list[str]


def router(server: Server, metrics: Metrics) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["operations"])

    @routes.get("/healthz", summary="Is the process alive?")
    async def healthz() -> Health:
        return Health(status="ok", version=str(wordbrush.__version__))

    @routes.get(
        "/readyz", summary="Can it paint?", response_model=Readiness,
        responses={503: {"model": Readiness, "description": "Not now"}},
    )  # fmt: skip
    async def readyz() -> JSONResponse:
        problems = await run_in_threadpool(problems_of, server)
        found = Readiness(status="not ready" if problems else "ready", problems=problems)
        headers = {"Retry-After": "2"} if problems else None
        return JSONResponse(found.model_dump(), status_code=503 if problems else 200, headers=headers)

    @routes.get(
        "/metrics", summary="Numbers for Prometheus", response_class=PlainTextResponse, dependencies=[Depends(caller)],
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **answers(401, 429)},
    )  # fmt: skip
    def numbers() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return routes


def problems_of(server: Server) -> list[str]:
    """Why nothing would be painted now; empty when all is well."""
    found = ["the server is ending"] if server.closing else []
    try:
        server.store.check()
    except (WordbrushError, SQLAlchemyError, OSError) as error:
        found.append(f"the database cannot be written: {str(error).splitlines()[0]}")
    states = [worker.state for worker in server.dispatcher.status()]
    if not any(state in ("ready", "busy") for state in states):
        found.append(f"no worker is ready: {', '.join(states) or 'there are none'}")
    return found
