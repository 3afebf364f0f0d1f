"""What goes wrong, as OpenAI's clients read it: with the name of the parameter that is at fault."""

from __future__ import annotations

import re

from wordbrush.errors import RequestError
from wordbrush.request import GenerationRequest
from wordbrush.serving.errors import Refused, response
from wordbrush.serving.work import Problem

NO_RETRY = {"x-should-retry": "false"}
"""Tells the clients not to send the same again; they would, twice, after every 409 and 5xx."""

_STATUS = {"request": 400, "model": 422}

# Fields of a request that these clients know by another name.
_FOREIGN = {"count": "n", "width": "size", "height": "size", "upscale": "size", "hires": "size"}


def bad(message: str, param: str | None, code: str = "invalid_value") -> Refused:
    """400, for a parameter that does not fit."""
    return Refused(400, code, message, param=param)


def of_request(error: RequestError) -> Refused:
    """400 for a request that does not fit, naming the parameter that its sentence begins with."""
    match = re.match(r"(?:the )?([a-z_]+)", str(error))
    name = None if match is None or match[1] not in GenerationRequest.model_fields else match[1]
    return bad(str(error), None if name is None else _FOREIGN.get(name, name))


def of_problem(problem: Problem | None) -> Refused:
    """What a client is told of a job that failed: 400 or 422 where the request was wrong, else 500.

    It would fail again, so the clients are told not to ask again.
    """
    if problem is None:
        return Refused(500, "work", "the job ended without a picture", NO_RETRY)
    if problem.kind == "request":
        return of_request(RequestError(problem.message))
    return Refused(_STATUS.get(problem.kind, 500), problem.kind, problem.message, NO_RETRY)


def event_data(error: Exception) -> str:
    """The JSON text of an error object, for a stream that has begun."""
    return bytes(response(error, "/v1/images/generations").body).decode()
