"""/healthz says that the process is alive, and /readyz why it cannot paint, whatever else does not answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import anyio.to_thread
import pytest
from sqlalchemy import Connection
from tests.serving.conftest import Inside

from wordbrush.errors import WorkFailed


def test_it_is_alive_though_every_thread_is_busy(inside: Inside) -> None:
    assert inside.client.portal is not None
    free = threading.Event()

    async def occupied() -> None:
        limiter = anyio.to_thread.current_default_thread_limiter()
        async with anyio.create_task_group() as group:
            for _ in range(int(limiter.total_tokens)):
                group.start_soon(anyio.to_thread.run_sync, free.wait)

    busy = inside.client.portal.start_task_soon(occupied)
    answers: list[int] = []
    asking = threading.Thread(target=lambda: answers.append(inside.client.get("/healthz").status_code))
    try:
        asking.start()
        asking.join(5)
        assert answers == [200]
    finally:
        free.set()
        busy.result(10)
        asking.join()


def test_without_its_database_it_is_not_ready_and_says_why(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def gone() -> Iterator[Connection]:
        raise WorkFailed("the database does not answer")
        yield

    database = inside.server.store.database
    monkeypatch.setattr(database, "read", gone)
    monkeypatch.setattr(database, "write", gone)
    inside.server.store.keys._forget()
    answer = inside.client.get("/readyz")
    assert answer.status_code == 503
    assert "the database does not answer" in answer.json()["problems"][0]
    assert inside.client.get("/healthz").status_code == 200
    monkeypatch.undo()
