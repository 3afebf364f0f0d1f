"""What this API answers when something is wrong, for its documentation; `serving.errors` makes the answers."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class ErrorAnswer(BaseModel):
    """Of every status from 400 on."""

    error: str
    detail: str
    """One sentence."""
    body: str
    errors: str


ANSWERS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": why}
    for status, why in {
        400: "There is no such sampler, or the body is no JSON",
        401: "A key is needed",
        403: "That is for administrators",
        404: "Not here",
        413: "The body is too large",
        422: "Something does not fit, or cannot be done here",
        429: "Too many requests; Retry-After says when to ask again",
        500: "The work failed",
        503: "The server is ending",
    }.items()
}
