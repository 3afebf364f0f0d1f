"""A step's data ahead of the step: made by a thread, or by worker processes where a task's data can be made there."""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from wordbrush.errors import WordbrushError, WorkFailed
from wordbrush.training.task import Batch, Task

_AHEAD = 2  # steps


class Steps(Dataset[list[Batch] | WordbrushError]):
    """The micro-batches of each step, or why there are none: what a worker raises, torch tells in its own words."""

    def __init__(self, source: Callable[[int, range], Batch], steps: range, parts: list[range]) -> None:
        self.source, self.steps, self.parts = source, steps, parts

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> list[Batch] | WordbrushError:
        try:
            return [self.source(self.steps[index], rows) for rows in self.parts]
        except WordbrushError as error:
            return error


class Loader:
    """The data of a run's steps, in order."""

    def __init__(self, task: Task, steps: range, parts: list[range], *, workers: int = 0, pinned: bool = False) -> None:
        """`workers` processes make the data if the task has a `source`; `pinned`: in memory that GPUs copy from."""
        made_apart = workers > 0 and task.source is not None and len(steps) > 0
        self._source = _worked(task, steps, parts, workers, pinned) if made_apart else _made(task, steps, parts, pinned)
        self._thread = ThreadPoolExecutor(1)
        self._coming: deque[Future[list[Batch] | None]] = deque()
        for _ in range(_AHEAD):
            self._ask()

    def _ask(self) -> None:
        self._coming.append(self._thread.submit(next, self._source, None))

    def next(self, stop: threading.Event | None = None) -> list[Batch] | None:
        """The next step's micro-batches; None after the last step, or as soon as `stop` is set.

        Raises WorkFailed when a worker process died, and what the task raises of data that cannot be used.
        """
        first = self._coming[0]
        if stop is not None:
            while not stop.is_set() and not wait((first,), timeout=0.1).done:
                pass
            if stop.is_set():
                return None
        self._coming.popleft()
        self._ask()
        try:
            return first.result()
        except RuntimeError as error:
            if "DataLoader worker (pid" not in str(error):
                raise
            raise WorkFailed(
                "a process that makes training data has died, perhaps for want of memory; the last checkpoint is kept: "
                "the same command goes on from there, with fewer --workers if it dies again"
            ) from error

    def close(self, *, wait: bool) -> None:
        """Ends the thread and the workers; without `wait`, though they may be at work on a step."""
        self._thread.shutdown(wait=wait, cancel_futures=True)
        if wait:
            self._source.close()


def _made(task: Task, steps: range, parts: list[range], pinned: bool) -> Generator[list[Batch]]:
    for step in steps:
        batches = [task.batch(step, rows) for rows in parts]
        yield [{k: v.pin_memory() for k, v in batch.items()} for batch in batches] if pinned else batches


def _worked(task: Task, steps: range, parts: list[range], workers: int, pinned: bool) -> Generator[list[Batch]]:
    assert task.source is not None
    loader: DataLoader[Any] = DataLoader(
        Steps(task.source, steps, parts),
        batch_size=None,
        num_workers=workers,
        multiprocessing_context="spawn",  # forked, a process with threads and a GPU may hang
        worker_init_fn=_as_worker,
        pin_memory=pinned,
        generator=torch.Generator(),
        prefetch_factor=_AHEAD,
    )
    for made in loader:
        if isinstance(made, WordbrushError):
            raise made
        yield made


def _as_worker(number: int) -> None:
    """Ctrl-C is for the process that trains, which ends its workers; DataLoader ends them when it is killed."""
    del number
    signal.signal(signal.SIGINT, signal.SIG_IGN)
