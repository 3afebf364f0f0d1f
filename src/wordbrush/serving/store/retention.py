"""Deleting: jobs with the files that nothing else needs, what has become too old or too much, and stray files."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, func, select

from wordbrush.serving.store.records import now_us
from wordbrush.serving.store.rows import chunks, delete_jobs, unused
from wordbrush.serving.store.store import Store
from wordbrush.serving.store.tables import JOBS, PICTURES

# A file that no job names is left alone for so many seconds: its job may be about to come.
STRAY_AGE = 24 * 3600.0
INPUT_AGE = 600.0

_DAY = 24 * 3600 * 1_000_000


class Retention:
    """What deletes; the jobs' writing lock is held wherever it is used."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def second_names(self, job_ids: Sequence[str]) -> dict[str, str]:
        """What the pictures of jobs that have ended are called by their pixels, by the hashes of their files.

        It reads them all, so this one is for the time before the lock.
        """
        hashes: set[str] = set()
        with self._store.database.read() as connection:
            for part in chunks(job_ids):
                query = select(PICTURES.c.sha256).where(PICTURES.c.job_id.in_(part))
                hashes |= set(connection.execute(query).scalars())
        pixels = self._store.pictures.pixels
        return {sha256: found for sha256 in sorted(hashes) if (found := pixels(sha256)) is not None}

    def delete(self, job_ids: Sequence[str], names: Mapping[str, str], fresh: float | None) -> None:
        """Deletes jobs that have ended, and then the files that no other job has.

        names: their `second_names`.
        fresh: files written at this time (seconds since 1970) or later stay: a running job may be about to name them.
        """
        with self._store.database.write() as connection:
            pictures, inputs = delete_jobs(connection, job_ids)
        self._remove(pictures, inputs | {names[name] for name in pictures if name in names}, fresh)

    def due(self) -> list[str]:
        """The jobs that are too old, or the oldest of too many bytes of pictures."""
        settings = self._store.settings
        with self._store.database.read() as connection:
            found: list[str] = []
            if settings.retention_days is not None:
                limit = now_us() - int(settings.retention_days * _DAY)
                old = select(JOBS.c.id).where(JOBS.c.finished < limit).order_by(JOBS.c.finished)
                found += connection.execute(old).scalars()
            if settings.retention_bytes is not None:
                found += _too_much(connection, settings.retention_bytes, set(found))
        return found

    def sweep(self) -> int:
        """Deletes files that no job names and that are more than a day old. Returns how many."""
        limit = time.time() - STRAY_AGE
        store, count = self._store, 0
        for folder in (store.pictures, store.inputs):
            old = sorted(name for name, stat in folder.all() if stat.st_mtime < limit)
            for part in chunks(old):
                with store.database.read() as connection:
                    stray = unused(connection, set(part))
                if folder is store.inputs:
                    stray -= self._second_names(stray)
                count += sum(folder.remove(name, older_than=limit) for name in sorted(stray))
            folder.remove_rests(STRAY_AGE)
        return count

    def _second_names(self, hashes: set[str]) -> set[str]:
        """Those inputs that are also a finished picture, which is still there: the same file by its pixels."""
        places = {name: self._store.inputs.path(name) for name in hashes}
        return {name for name, place in places.items() if place is not None and place.stat().st_nlink > 1}

    def _remove(self, pictures: set[str], inputs: set[str], fresh: float | None) -> None:
        store = self._store
        with store.database.read() as connection:
            inputs = unused(connection, inputs)
        for sha256 in sorted(pictures):
            store.pictures.remove(sha256, older_than=fresh)
        limit = time.time() - INPUT_AGE
        for sha256 in sorted(inputs):
            store.inputs.remove(sha256, older_than=limit)


def _too_much(connection: Connection, most: int, gone: set[str]) -> list[str]:
    """The oldest ended jobs without which the pictures take no more than `most` bytes."""
    rows = connection.execute(
        select(JOBS.c.id, func.sum(PICTURES.c.bytes).label("bytes"))
        .join(PICTURES, PICTURES.c.job_id == JOBS.c.id)
        .where(JOBS.c.finished.is_not(None))
        .group_by(JOBS.c.id, JOBS.c.finished)
        .order_by(JOBS.c.finished)
    ).all()
    left = [(row.id, int(row.bytes)) for row in rows if row.id not in gone]
    total, found = sum(size for _, size in left), []
    for job_id, size in left:
        if total <= most:
            break
        found.append(job_id)
        total -= size
    return found
