"""How much of a body is read, and how long that may take.

The bytes are counted as they come, whatever Content-Length says or does not say. A body that comes too slowly is given
up: a client that sends one byte a second would hold a connection, and what reads it, for weeks.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wordbrush.serving.errors import Refused
from wordbrush.serving.guard.caller import remembered
from wordbrush.serving.guard.refusing import refuse

if TYPE_CHECKING:
    from wordbrush.serving.server import Server


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How slowly a body may come.

    Attributes:
        first: seconds that any body may take.
        rate: bytes a second that a longer one must come with on the whole.
        longest: seconds after which no body is waited for.
    """

    first: float = 15.0
    rate: float = 8 * 1024
    longest: float = 600.0

    def left(self, received: int, waited: float) -> float:
        """Seconds that the next bytes may take."""
        return min(self.first + received / self.rate, self.longest) - waited


MOST_VALUES = 100_000
"""In a JSON body, counted by the signs between them, which base64 has none of. A list of 20 million empty lists fits
into 64 MiB, takes 2 GB when it is read, and keeps the server busy for minutes."""
NOBODYS = 64 * 1024
"""Largest body of whoever shows no key: room for a key, on the page that asks for one."""

_NO_JSON = ("multipart/form-data", "image/", "application/octet-stream", "application/x-www-form-urlencoded")


class BodyCheck:
    """413 for a body that is too large or of too many values, 408 for one that comes too slowly; then the line ends."""

    def __init__(self, app: ASGIApp, server: Server, patience: Patience | None = None) -> None:
        self._app = app
        self._server = server
        self._patience = patience or Patience()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        reading = _Reading(receive, send, self._most(scope), self._patience)
        reading.is_json = not headers.get("content-type", "").strip().lower().startswith(_NO_JSON)
        told = headers.get("content-length", "")
        if told.isascii() and told.isdigit() and int(told[:20]) > reading.most:
            await refuse(_too_large(reading.most), scope, receive, send)
            return
        try:
            await self._app(scope, reading.receive, reading.send)
        except Exception:
            if reading.refusal is None:
                raise
        if reading.refusal is not None and not reading.begun:
            await refuse(reading.refusal, scope, receive, send)

    def _most(self, scope: Scope) -> int:
        found = remembered(scope)
        most = int(self._server.settings.max_body)
        if found is None:
            return min(most, NOBODYS)
        own = self._server.store.keys.limits(found).body
        return most if own is None else min(most, own)


class _Reading:
    """One request's `receive` and `send`: once the body is refused, the application's own answer is withheld."""

    def __init__(self, receive: Receive, send: Send, most: int, patience: Patience) -> None:
        self._receive = receive
        self._send = send
        self.most = most
        self._patience = patience
        self._received = 0
        self._waited = 0.0
        self._values = 0
        self._whole = False
        self.is_json = False
        self.begun = False
        self.refusal: Refused | None = None

    async def receive(self) -> Message:
        if self.refusal is not None:
            raise self.refusal
        if self._whole:  # what comes now is that the client left, in its own time
            return await self._receive()
        began = time.monotonic()
        try:
            left = self._patience.left(self._received, self._waited)
            message = await asyncio.wait_for(self._receive(), timeout=max(0.001, left))
        except TimeoutError:
            raise self._refused(_too_slow()) from None
        self._waited += time.monotonic() - began
        if message["type"] == "http.request":
            part = message.get("body", b"")
            self._received += len(part)
            if self.is_json:
                self._values += sum(map(part.count, (b",", b"[", b"{")))
            self._whole = not message.get("more_body", False)
            if self._received > self.most:
                raise self._refused(_too_large(self.most))
            if self._values > MOST_VALUES:
                raise self._refused(_too_many())
        return message

    async def send(self, message: Message) -> None:
        if self.refusal is not None and not self.begun:
            return
        self.begun = True
        await self._send(message)

    def _refused(self, refusal: Refused) -> Refused:
        self.refusal = refusal
        return refusal


def _too_large(most: int) -> Refused:
    message = f"the body is too large; at most {most} bytes are taken"
    return Refused(413, "too_large", message, {"Connection": "close"})


def _too_many() -> Refused:
    message = f"the body holds too many values; at most {MOST_VALUES} are taken"
    return Refused(413, "too_large", message, {"Connection": "close"})


def _too_slow() -> Refused:
    return Refused(408, "timeout", "the body came too slowly; send it again", {"Connection": "close"})
