"""Queues for tests: opened on a folder, or on the PostgreSQL database that an environment variable names."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from wordbrush.request import GenerationRequest
from wordbrush.serving.settings import Settings
from wordbrush.serving.store import Jobs, PictureFiles, Store
from wordbrush.serving.store.database import Database
from wordbrush.serving.store.tables import Base
from wordbrush.serving.work import LOCAL, Caller, Generate, Job, StoredPicture

POSTGRES = "WORDBRUSH_TEST_POSTGRES"
"""A URL of SQLAlchemy of an empty database, whose tables the tests drop; without it those tests are skipped."""

KINDS = ("sqlite", "postgresql") if POSTGRES in os.environ else ("sqlite",)

ANNA = Caller(id="anna", name="Anna", admin=False)
BERT = Caller(id="bert", name="Bert", admin=False)


def settings_of(folder: Path, **values: Any) -> Settings:
    return Settings(data=folder / "data", **values)


@contextmanager
def opened(folder: Path, **values: Any) -> Iterator[Jobs]:
    """A queue of its own on that folder, closed in the end."""
    store = Store(settings_of(folder, **values))
    try:
        jobs = Jobs(store)
        yield jobs
        jobs.close()
    finally:
        store.close()


def painted(prompt: str = "a fox", *, seed: int = 7, **fields: Any) -> Generate:
    """Work for one picture, unless `fields` say otherwise."""
    return Generate(request=GenerationRequest(prompt=prompt, seed=seed, **fields))


def submitted(jobs: Jobs, prompt: str = "a fox", caller: Caller = LOCAL, **arguments: Any) -> Job:
    return jobs.submit(painted(prompt), caller, source="v1", **arguments)


def stored(sha256: str = "ab" * 32, *, index: int = 0, **fields: Any) -> StoredPicture:
    return StoredPicture(**{"sha256": sha256, "index": index, "width": 8, "height": 8, "bytes": 100, **fields})


def file_of(files: PictureFiles, colour: int) -> StoredPicture:
    """Writes the file of a finished picture of one grey, as a worker does."""
    buffer = BytesIO()
    Image.new("L", (8, 8), colour).save(buffer, format="PNG")
    data = buffer.getvalue()
    return stored(files.add(data), bytes=len(data))


def finish(jobs: Jobs, *pictures: StoredPicture, worker: str = "one", most: int = 1) -> list[Job]:
    """Does the next batch as a worker does, each job with those pictures, or one that has no file."""
    batch = jobs.next_batch(worker, most)
    for job in batch:
        for picture in pictures or [stored(hashlib.sha256(job.id.encode()).hexdigest())]:
            jobs.picture(job.id, picture)
        jobs.done(job.id)
    return [jobs.get(job.id, LOCAL) for job in batch]


@contextmanager
def on(kind: str) -> Iterator[None]:
    """Every queue that is opened meanwhile is on "sqlite", as usual, or on "postgresql"."""
    if kind == "sqlite":
        yield
        return
    with emptied() as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORDBRUSH_SERVE_DATABASE", url)
        yield


@contextmanager
def emptied() -> Iterator[str]:
    """The URL of the PostgreSQL database that may be used, without tables before and after."""
    url = os.environ[POSTGRES]
    _drop(url)
    try:
        yield url
    finally:
        _drop(url)


def _drop(url: str) -> None:
    database = Database(url, exclusive=False)
    Base.metadata.drop_all(database.engine)
    database.close()
