"""Server-sent events: text that goes on, with a sign of life when nothing happens, and an end when the server ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

HEARTBEAT = 10.0
"""Seconds of silence after which a comment is sent, so that nothing between here and there gives up."""

RETRY = 1000
"""Milliseconds after which a client whose connection broke should come back."""

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # the latter: nginx, do not gather


def event_text(data: Any, *, event: str | None = None, id: int | str | None = None, retry: int | None = None) -> bytes:
    """One event, its data as JSON on one line."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return format_sse_event(data_str=text, event=event, id=None if id is None else str(id), retry=retry)


def streamed(texts: AsyncIterator[bytes], ended: asyncio.Event, *, heartbeat: float = HEARTBEAT) -> StreamingResponse:
    """The answer that sends these events, until they end or the server does; `texts` is closed in any case."""
    return StreamingResponse(alive(texts, ended, heartbeat), media_type="text/event-stream", headers=HEADERS)


async def alive(texts: AsyncIterator[bytes], ended: asyncio.Event, heartbeat: float) -> AsyncIterator[bytes]:
    """The same texts with comments in between where they pause; stops when `ended` is set."""
    over = asyncio.ensure_future(ended.wait())
    coming: asyncio.Future[bytes] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(texts))
            either: set[asyncio.Future[Any]] = {coming, over}
            await asyncio.wait(either, timeout=heartbeat, return_when=asyncio.FIRST_COMPLETED)
            if coming.done():
                try:
                    text = coming.result()
                except StopAsyncIteration:
                    return
                coming = None
                yield text
            elif over.done():
                return
            else:
                yield KEEPALIVE_COMMENT
    finally:
        over.cancel()
        if coming is not None:
            coming.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
                await coming
        close = getattr(texts, "aclose", None)
        if close is not None:
            await close()
