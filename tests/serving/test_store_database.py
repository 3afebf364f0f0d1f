"""Opening the database: one server at a time, no newer schema, WAL; transactions; what callers set."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import text, update
from sqlalchemy.exc import DatabaseError
from tests.serving.queues import ANNA, BERT, opened, settings_of, submitted

from wordbrush.errors import RequestError, WorkFailed
from wordbrush.serving.store import Jobs, Store
from wordbrush.serving.store.database import Database
from wordbrush.serving.store.tables import META, SCHEMA
from wordbrush.serving.work import LOCAL

HOLD = """
import sys, time
from pathlib import Path
from wordbrush.serving.settings import Settings
from wordbrush.serving.store import Store
store = Store(Settings(data=Path(sys.argv[1])))
print("open", flush=True)
time.sleep(60)
"""


def test_a_second_server_is_refused_and_a_killed_one_is_no_hindrance(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    command = [sys.executable, "-c", HOLD, str(settings.data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            with pytest.raises(RequestError, match=rf"another server \(process {process.pid}\) runs on .*: end it"):
                Store(settings)
            Store(settings, exclusive=False).close()  # `wordbrush keys` beside it
        finally:
            process.kill()
    Store(settings).close()


def test_two_servers_on_one_database_file_of_two_folders_are_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/one.db"
    with opened(tmp_path / "a", database=url), pytest.raises(RequestError, match="another server"):
        Store(settings_of(tmp_path / "b", database=url))
    with opened(tmp_path / "b", database=url):
        pass


def test_a_queue_needs_the_lock(tmp_path: Path) -> None:
    store = Store(settings_of(tmp_path), exclusive=False)
    with pytest.raises(ValueError, match="exclusively"):
        Jobs(store)
    store.close()


def test_a_newer_database_is_refused_in_one_sentence_and_left_alone(tmp_path: Path) -> None:
    with opened(tmp_path) as jobs:
        submitted(jobs)
    database = Database(settings_of(tmp_path).database_url)
    with database.write() as connection:
        connection.execute(update(META).where(META.c.name == "schema").values(value=str(SCHEMA + 1)))
    database.close()
    with pytest.raises(RequestError, match=r"written by a newer Wordbrush \(its schema is 2, this one reads up to 1\)"):
        Store(settings_of(tmp_path))
    with pytest.raises(RequestError, match="newer Wordbrush"):  # and the lock is free again
        Store(settings_of(tmp_path))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("no url", "cannot be used"),
        ("oracledb9://somewhere/x", "cannot be used"),
        ("sqlite:////proc/nothing/here.db", "cannot be made"),
        ("postgresql://anna:secret@127.0.0.1:1/none", "cannot be opened"),
    ],
)
def test_a_database_that_cannot_be_opened_is_one_sentence_without_passwords(
    tmp_path: Path, url: str, said: str
) -> None:
    if url.startswith("postgresql"):
        pytest.importorskip("psycopg")
    with pytest.raises(RequestError, match=said) as caught:
        Store(settings_of(tmp_path, database=url))
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_database_is_one_sentence(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    settings.data.mkdir()
    (settings.data / "wordbrush.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(RequestError, match="cannot be opened: file is not a database"):
        Store(settings)


def test_a_data_folder_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(RequestError, match=r"the data folder .* cannot be made"):
        Store(settings_of(tmp_path))


def test_it_is_in_wal_mode_and_readers_do_not_wait_for_the_writer(tmp_path: Path) -> None:
    with opened(tmp_path) as jobs:
        job = submitted(jobs)
        database = jobs._database
        with database.read() as connection:
            assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
            assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1
        with database.write() as connection:
            connection.execute(text("UPDATE jobs SET owner = 'x'"))
            assert jobs.list(LOCAL).jobs[0].owner == "local"  # by another connection
            connection.rollback()
        assert jobs.get(job.id, LOCAL).owner == "local"


def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as jobs:

        def half() -> None:
            with jobs._database.write() as connection:
                connection.execute(text("INSERT INTO wordbrush_meta VALUES ('a', 'b')"))
                raise RuntimeError

        with pytest.raises(RuntimeError):
            half()
        with jobs._database.read() as connection:
            assert connection.execute(text("SELECT count(*) FROM wordbrush_meta WHERE name = 'a'")).scalar() == 0


def test_a_database_that_does_not_take_it_is_work_failed_and_the_queue_is_as_before(tmp_path: Path) -> None:
    with opened(tmp_path) as jobs:
        first = submitted(jobs)

        def broken(*_: object) -> None:
            raise WorkFailed("the database is full")

        write, jobs._database.write = jobs._database.write, broken  # type: ignore[method-assign,assignment]
        for call in (lambda: submitted(jobs), lambda: jobs.next_batch("one", 1), lambda: jobs.cancel(first.id, LOCAL)):
            with pytest.raises(WorkFailed):
                call()
        jobs._database.write = write  # type: ignore[method-assign]
        assert [job.id for job in jobs.queue(LOCAL)] == [first.id]
        assert [job.id for job in jobs.next_batch("one", 4)] == [first.id]


def test_check_writes(tmp_path: Path) -> None:
    store = Store(settings_of(tmp_path))
    store.check()
    with store.database.write() as connection:
        connection.execute(text("DROP TABLE wordbrush_meta"))
    with pytest.raises(WorkFailed, match="no such table"):
        store.check()
    store.close()
    store.close()


def test_options_are_each_callers_own(tmp_path: Path) -> None:
    with opened(tmp_path) as jobs:
        options = jobs._store.options
        assert options.get(ANNA) == {}
        options.set(ANNA, {"sampler": "euler", "n": [1, None, "ü"]})
        options.set(BERT, {"sampler": "heun"})
        options.set(BERT, {"x": 1})
        assert options.get(ANNA) == {"sampler": "euler", "n": [1, None, "ü"]}
        assert options.get(BERT) == {"x": 1}
    with opened(tmp_path) as jobs:
        assert jobs._store.options.get(BERT) == {"x": 1}


def test_many_threads_write_and_read_at_once(tmp_path: Path) -> None:
    with opened(tmp_path) as jobs:
        options, failures = jobs._store.options, []

        def work(number: int) -> None:
            try:
                for turn in range(20):
                    options.set(ANNA if number % 2 else BERT, {"n": turn})
                    options.get(ANNA)
            except WorkFailed as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []


def test_the_server_process_needs_no_torch() -> None:
    code = "import sys, wordbrush.serving.store; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_other_users_of_the_machine_cannot_read_the_data_folder(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    Store(settings).close()
    assert settings.data.stat().st_mode & 0o077 == 0


def test_a_damaged_database_is_one_sentence(tmp_path: Path) -> None:
    store = Store(settings_of(tmp_path))
    try:
        with pytest.raises(WorkFailed, match="image is malformed"), store.database.read():
            raise DatabaseError("select 1", None, Exception("database disk image is malformed"))
    finally:
        store.close()
