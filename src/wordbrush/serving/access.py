"""The outermost layer: every request gets an id, a line in the log and a place in the metrics."""

from __future__ import annotations

import re
import time
import uuid
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wordbrush.serving.guard.caller import remembered
from wordbrush.serving.metrics import Metrics

log = structlog.get_logger("wordbrush.http")

_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

QUIET = ("/healthz", "/readyz", "/metrics", "/studio")
"""Asked again and again by machines: their lines are only for debugging."""


class Access:
    """ASGI middleware; `X-Request-ID` of a client is taken over where it is a plain one."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.monotonic()
        request_id = _given_id(scope) or uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        told: dict[str, Any] = {"status": 499, "seconds": None}  # 499: the client went away before the answer

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                told.update(status=message["status"], seconds=time.monotonic() - started)
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            await self.app(scope, receive, sending)
        except Exception:
            told["status"] = 500 if told["seconds"] is None else told["status"]
            raise
        finally:
            self._record(scope, told, time.monotonic() - started)

    def _record(self, scope: Scope, told: dict[str, Any], seconds: float) -> None:
        route = _route(scope)
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self.metrics.requests.labels(method, route, str(told["status"])).inc()
        self.metrics.answering.labels(method, route).observe(seconds if told["seconds"] is None else told["seconds"])
        caller = remembered(scope)
        quiet = scope["path"].startswith(QUIET) and told["status"] < 500
        (log.debug if quiet else log.info)(
            "request", method=method, path=scope["path"][:200], status=told["status"],
            ms=round(1000 * seconds, 1), key=None if caller is None else caller.name,
        )  # fmt: skip


def _given_id(scope: Scope) -> str | None:
    given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
    return given if _ID.fullmatch(given) else None


def _route(scope: Scope) -> str:
    """The pattern of the route, so that ids do not make a metric each."""
    pattern = getattr(scope.get("route"), "path", None)
    if pattern is not None:
        return str(pattern)
    return "/studio" if scope["path"].startswith("/studio") else "none"
