"""Hands the queue's jobs to worker processes, and keeps those going."""

from __future__ import annotations

from wordbrush.serving.settings import Settings
from wordbrush.serving.store.jobs import Jobs
from wordbrush.serving.store.store import Store
from wordbrush.serving.workers import machine
from wordbrush.serving.workers.handler import Handler, WorkerStatus
from wordbrush.serving.workers.protocol import Setup

LINGER = 0.005
"""Seconds that an idle worker waits for more jobs once one has come: clients that ask together are one batch."""


class Dispatcher:
    """All workers of a server."""

    def __init__(self, jobs: Jobs, store: Store, settings: Settings, *, linger: float = LINGER) -> None:
        """Nothing is started yet.

        linger: as `LINGER`.
        """
        del store  # workers write files themselves, into the data folder
        number = worker_count(settings)
        self._handlers = [Handler(jobs, _setup(settings, index, number), linger=linger) for index in range(number)]
        jobs.on_queued(self._wake)
        jobs.on_cancel(self._cancel)

    def start(self) -> None:
        """Starts the worker processes; returns at once."""
        for handler in self._handlers:
            handler.start()

    def stop(self, grace: float) -> None:
        """Gives out nothing more, and blocks until all processes have ended.

        grace: seconds that running jobs have to finish; then they go back to the queue, where they were.
        """
        for handler in self._handlers:
            handler.stop(grace)
        for handler in self._handlers:
            handler.join()

    def status(self) -> list[WorkerStatus]:
        """How each worker is."""
        return [handler.status for handler in self._handlers]

    def drop_models(self) -> None:
        """Lets all workers forget their models, once they have finished what they do."""
        for handler in self._handlers:
            handler.drop_models()

    def _wake(self) -> None:
        for handler in self._handlers:
            handler.wake()

    def _cancel(self, job_id: str, keep_partial: bool) -> None:
        for handler in self._handlers:
            handler.cancel(job_id, keep_partial=keep_partial)


def worker_count(settings: Settings) -> int:
    """How many processes paint: as many as are set, else one for each GPU, or one on a CPU."""
    if settings.workers is not None:
        return settings.workers
    return max(1, machine.gpus()) if settings.device in ("auto", "cuda") else 1


def _setup(settings: Settings, index: int, number: int) -> Setup:
    """Of one of `number` workers: on a CPU they share cores and memory, and each GPU has its own."""
    threads = settings.threads
    cache_bytes = None if settings.cache_bytes is None else int(settings.cache_bytes)
    if settings.device == "cpu" or not machine.gpus():
        if threads is None and number > 1:
            threads = max(1, machine.cores() // number)
        cache_bytes = (machine.memory() // 2 if cache_bytes is None else cache_bytes) // number
    return Setup(
        name=f"worker-{index}",
        number=index,
        data=settings.data,
        device=settings.device,
        dtype=settings.dtype,
        threads=threads,
        batch=settings.batch,
        cache_bytes=cache_bytes,
        preload=tuple(settings.preload),
        settings=settings,
    )
