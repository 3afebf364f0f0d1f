"""What is PostgreSQL's own; with a database at hand, test_jobs.py and test_jobs_events.py run on it as well."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from tests.serving.queues import ANNA, BERT, POSTGRES, emptied, finish, opened, settings_of, submitted

from wordbrush.errors import RequestError, WorkFailed
from wordbrush.serving.store import Jobs, Store, database
from wordbrush.serving.work import LOCAL

pytestmark = pytest.mark.skipif(POSTGRES not in os.environ, reason=f"{POSTGRES} names no PostgreSQL database")


@pytest.fixture
def url() -> Iterator[str]:
    with emptied() as found:
        yield found


def test_a_second_server_is_refused_though_its_folder_is_another(tmp_path: Path, url: str) -> None:
    with opened(tmp_path / "a", database=url):
        with pytest.raises(RequestError, match="another server runs on 'postgresql://"):
            Store(settings_of(tmp_path / "b", database=url))
        Store(settings_of(tmp_path / "c", database=url), exclusive=False).close()
    with opened(tmp_path / "b", database=url):
        pass


def test_keys_and_options(tmp_path: Path, url: str) -> None:
    store = Store(settings_of(tmp_path, database=url))
    try:
        key, secret = store.keys.add("Anna")
        found = store.keys.check(secret)
        assert found is not None
        assert found.id == key.id
        store.options.set(ANNA, {"a": "ü"})
        store.options.set(ANNA, {"a": 2})
        assert store.options.get(ANNA) == {"a": 2}
        store.check()
    finally:
        store.close()


def test_many_threads(tmp_path: Path, url: str) -> None:
    with opened(tmp_path, database=url, queue_limit=1000) as jobs:

        def ask() -> None:
            for number in range(10):
                submitted(jobs, str(number), ANNA, idempotency_key=str(number))
                submitted(jobs, str(number), BERT)

        def work(name: str) -> None:
            while len(done) < 90:
                done.update(job.id for job in finish(jobs, worker=name, most=4))

        done: set[str] = set()
        threads = [threading.Thread(target=ask) for _ in range(8)]
        threads += [threading.Thread(target=work, args=(name,)) for name in ("one", "two")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert jobs.list(ANNA).total == 10
        assert jobs.list(LOCAL).total == len(done) == 90
        assert all(job.attempts == 1 for job in jobs.list(LOCAL, limit=100).jobs)


def test_the_lock_is_taken_again_when_its_connection_broke(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_HELD", 0.0)
    with opened(tmp_path / "a", database=url) as jobs:
        cut_off(jobs)
        submitted(jobs)
        with pytest.raises(RequestError, match="another server runs on"):
            Store(settings_of(tmp_path / "b", database=url))
        cut_off(jobs)
        with opened(tmp_path / "b", database=url), pytest.raises(WorkFailed, match="another server runs on"):
            submitted(jobs)
        submitted(jobs)


def cut_off(jobs: Jobs) -> None:
    """Breaks the connection that holds the lock."""
    held = jobs._database._lock_connection
    assert held is not None
    pid = held.execute(text("SELECT pg_backend_pid()")).scalar_one()
    held.commit()
    with jobs._database.engine.begin() as connection:
        connection.execute(text(f"SELECT pg_terminate_backend({pid}, 5000)"))
