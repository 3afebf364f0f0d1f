"""What a client is told when something is wrong: one table from exceptions to answers, in the manner of each API.

The native API answers {"error": {"kind", "message"}}, the OpenAI one {"error": {"message", "type", "param", "code"}},
the web UI's {"error", "detail", "body", "errors"}. Which one is said by the path.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from wordbrush.errors import ModelFileError, RequestError, WordbrushError, WorkFailed
from wordbrush.serving.places import without_places
from wordbrush.serving.store import IdempotencyConflict, NoSuchJob, NotAllowed, QueueFull, WrongState

log = structlog.get_logger("wordbrush.serving")

_LONGEST = 2000  # characters of a message

_SDAPI = ("/sdapi/", "/internal/", "/controlnet/", "/app_id", "/token")
_OPENAI = ("/v1/images/generations", "/v1/images/edits", "/v1/images/variations")


class Refused(WordbrushError):
    """An answer that is not the one asked for, with its HTTP status.

    Attributes:
        status: of HTTP, 400 to 599.
        kind: one word for programs: "not_found", "unauthorized", "forbidden", "too_large", "rate" …
        headers: to send with it, such as Retry-After.
        param: which field was wrong, where that is known.
    """

    def __init__(
        self, status: int, kind: str, message: str, headers: Mapping[str, str] | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.headers, self.param = status, kind, dict(headers or {}), param


def not_found(what: str) -> Refused:
    """404 with "there is no …"."""
    return Refused(404, "not_found", f"there is no {what}")


_KINDS_SAID = "request, model, not_found, conflict, queue_full, rate, unauthorized, forbidden, too_large, closing …"
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "What the native API answers when something is wrong.",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "kind": {"type": "string", "description": f"One word: {_KINDS_SAID}"},
                "message": {"type": "string", "description": "One sentence."},
            },
            "required": ["kind", "message"],
        }
    },
    "required": ["error"],
}


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of a native route that may answer with these errors."""
    content = {"application/json": {"schema": _SCHEMA}}  # a model for each would make the start take twice as long
    return {
        status: {"content": content, "description": HTTPStatus(status).phrase, **_extra_of(status)}
        for status in statuses
    }


def _extra_of(status: int) -> dict[str, Any]:
    if status not in (429, 503):
        return {}
    about = {"description": "Seconds after which to try again.", "schema": {"type": "integer"}}
    return {"headers": {"Retry-After": about}}


# The status and kind of our exceptions, the special ones first.
_KNOWN: tuple[tuple[type[Exception], int, str], ...] = (
    (NoSuchJob, 404, "not_found"),
    (IdempotencyConflict, 409, "conflict"),
    (WrongState, 409, "state"),
    (NotAllowed, 403, "forbidden"),
    (QueueFull, 429, "queue_full"),
    (ModelFileError, 422, "model"),
    (RequestError, 422, "request"),
    (WorkFailed, 500, "work"),
)

_KINDS = {
    400: "request", 401: "unauthorized", 403: "forbidden", 404: "not_found", 405: "method", 408: "timeout",
    409: "conflict", 411: "request", 413: "too_large", 415: "media_type", 421: "host", 422: "request", 429: "rate",
    503: "closing",
}  # fmt: skip


def refusal(error: Exception) -> Refused:
    """What a client is told of an exception; of one that nobody foresaw, nothing but that it happened."""
    told = _refusal(error)
    text = str(told).encode("utf-8", "backslashreplace").decode()  # a name that was given may be no Unicode
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"  # or of megabytes
    return told if text == str(told) else Refused(told.status, told.kind, text, told.headers, told.param)


def _refusal(error: Exception) -> Refused:
    if isinstance(error, Refused):
        return error
    for kind_of_error, status, kind in _KNOWN:
        if isinstance(error, kind_of_error):
            wait = getattr(error, "retry_after", None)
            message = without_places(str(error))
            return Refused(status, kind, message, {} if wait is None else {"Retry-After": str(max(1, round(wait)))})
    if isinstance(error, RequestValidationError):
        return _of_validation(error)
    if isinstance(error, HTTPException):
        message = error.detail if isinstance(error.detail, str) else json.dumps(error.detail)
        kind = _KINDS.get(error.status_code, "request" if error.status_code < 500 else "work")
        return Refused(error.status_code, kind, message, error.headers)
    return Refused(500, "internal", "something went wrong inside the server; its log says more")


def _of_validation(error: RequestValidationError) -> Refused:
    problem = error.errors()[0]
    place = [str(part) for part in problem["loc"]]
    if problem["type"] == "json_invalid":
        reason = problem.get("ctx", {}).get("error", "")
        return Refused(422, "request", f"the body is not JSON: {reason.lower()}")
    name = ".".join(place[1:]) or place[0]
    if problem["type"] == "missing":
        return Refused(422, "request", f"{name} is missing; give it", param=name)
    shown = " ".join(repr(problem.get("input")).split())
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    reason = str(problem.get("ctx", {}).get("error", problem["msg"]))
    return Refused(422, "request", f"{name}={shown} does not fit: {reason[:1].lower() + reason[1:]}", param=name)


def style_of(path: str) -> str:
    """Which API's manner a path has: "sdapi", "openai" or "native"."""
    if path.startswith(_SDAPI):
        return "sdapi"
    return "openai" if path.startswith(_OPENAI) else "native"


def response(error: Exception, path: str) -> JSONResponse:
    """The answer to an exception, in the manner of the path's API; for middlewares too."""
    style = style_of(path)
    told = refusal(error)
    status, body = _STYLES[style](told)
    headers = told.headers
    if status == 401 and style == "sdapi":  # whose clients know names and passwords
        headers = {**headers, "WWW-Authenticate": 'Basic realm="wordbrush"'}
    return JSONResponse(body, status_code=status, headers=headers)


def _native(told: Refused) -> tuple[int, dict[str, Any]]:
    return told.status, {"error": {"kind": told.kind, "message": str(told)}}


_OPENAI_TYPES = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error",
}  # fmt: skip
_FIELD = re.compile(r"([a-z_]+)=|unknown option '([^']+)'|([a-z_]+) is missing")


def _openai(told: Refused) -> tuple[int, dict[str, Any]]:
    status = 400 if told.status == 422 and told.kind == "request" else told.status
    kind = _OPENAI_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    found = _FIELD.match(str(told))
    param = told.param or (next(filter(None, found.groups())) if found and status == 400 else None)
    return status, {"error": {"message": str(told), "type": kind, "param": param, "code": told.kind}}


def _sdapi(told: Refused) -> tuple[int, dict[str, Any]]:
    name = HTTPStatus(told.status).phrase.replace(" ", "") if told.status in set(HTTPStatus) else "Error"
    return told.status, {"error": name, "detail": str(told), "body": "", "errors": str(told)}


_STYLES = {"native": _native, "openai": _openai, "sdapi": _sdapi}


def _allowed(request: Request) -> str:
    """The methods that a path has, over all of its routes."""
    methods = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
    scope = {name: request.scope[name] for name in ("type", "path", "root_path", "headers")}

    def has(method: str) -> bool:
        return any(route.matches({**scope, "method": method})[0] is Match.FULL for route in request.app.routes)

    return ", ".join(filter(has, methods))


def register(app: FastAPI) -> None:
    """Lets the application answer exceptions so."""

    async def known(request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, HTTPException) and error.status_code == 405:
            error = HTTPException(405, error.detail, headers={"Allow": _allowed(request)})
        return response(error, request.url.path)

    async def unknown(request: Request, error: Exception) -> JSONResponse:
        log.error("request failed", path=request.url.path, exc_info=error)
        return response(error, request.url.path)

    async def gone(*_: object) -> Response:
        """Nobody hears this: the client went away while it was still sending."""
        return Response(status_code=400)

    app.add_exception_handler(ClientDisconnect, gone)
    for kind in (WordbrushError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, known)
    app.add_exception_handler(Exception, unknown)
