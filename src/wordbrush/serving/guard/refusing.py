"""What the guard's middlewares share: how a call is turned away, and which calls are looked at less closely."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

from wordbrush.serving import errors
from wordbrush.serving.errors import Refused

SAFE = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing."""
LOGIN = "/login"
HEALTH = ("/healthz", "/readyz")
"""Answered even while every thread is busy or the database does not answer: nobody is looked up for them."""
OPEN = (*HEALTH, "/favicon.ico", "/robots.txt", LOGIN, "/logout")
"""What nobody needs a key for."""


async def refuse(error: Refused, scope: Scope, receive: Receive, send: Send) -> None:
    """Answers a call that goes no further."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": error.kind})
        return
    await errors.response(error, scope["path"])(scope, receive, send)
