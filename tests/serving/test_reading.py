"""Bodies that come slowly, second by second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from wordbrush.serving.guard.caller import remember
from wordbrush.serving.guard.keys import Limits
from wordbrush.serving.guard.reading import BodyCheck, Patience
from wordbrush.serving.settings import Settings
from wordbrush.serving.work import LOCAL


def test_a_body_that_comes_too_slowly_is_given_up(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    keys = SimpleNamespace(limits=lambda _: Limits())
    server: Any = SimpleNamespace(settings=settings, store=SimpleNamespace(keys=keys))
    seen: list[str] = []

    async def reads(scope: Any, receive: Any, send: Any) -> None:
        try:
            while (await receive()).get("more_body"):
                seen.append("piece")
        except Exception:  # noqa: BLE001 - as frameworks do
            seen.append("error")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"fine"})

    async def call(pause: float, size: int) -> list[Any]:
        sent: list[Any] = []

        async def receive() -> Any:
            await asyncio.sleep(pause)
            return {"type": "http.request", "body": b"x" * size, "more_body": len(seen) < 20}

        async def send(message: Any) -> None:
            sent.append(message)

        seen.clear()
        check = BodyCheck(reads, server, Patience(first=0.2, rate=10_000, longest=0.6))
        scope: Any = {"type": "http", "path": "/v1/x", "method": "POST", "headers": []}
        remember(scope, LOCAL)
        await check(scope, receive, send)
        return sent

    slow = asyncio.run(call(0.05, 1))
    assert slow[0]["status"] == 408
    assert seen[-1] == "error"
    assert asyncio.run(call(0.01, 1000))[0]["status"] == 200  # longer than 0.2 s, but fast enough
    assert asyncio.run(call(0.05, 100_000))[0]["status"] == 408  # fast enough, but longer than any may take
    assert asyncio.run(call(10.0, 1))[0]["status"] == 408


def test_waiting_for_the_client_to_leave_has_no_end(tmp_path: Path) -> None:
    """Streams wait on `receive` while they send; that is no slow body."""
    server: Any = SimpleNamespace(settings=Settings(data=tmp_path), store=SimpleNamespace(keys=None))
    told: list[str] = []

    async def streams(scope: Any, receive: Any, send: Any) -> None:
        told.append((await receive())["type"])
        told.append((await receive())["type"])

    async def call() -> None:
        async def messages() -> AsyncIterator[Any]:
            yield {"type": "http.request", "body": b"", "more_body": False}
            await asyncio.sleep(0.3)
            yield {"type": "http.disconnect"}

        source = messages()

        async def receive() -> Any:
            return await anext(source)

        async def send(message: Any) -> None:
            raise AssertionError(message)

        check = BodyCheck(streams, server, Patience(first=0.1))
        await check({"type": "http", "path": "/", "method": "GET", "headers": []}, receive, send)

    asyncio.run(call())
    assert told == ["http.request", "http.disconnect"]
