"""A worker's process: it listens to the server, and paints what it is given.

It ends when the server does, however that ends: then its pipe is cut off. Signals that reach a whole group of
processes, Ctrl+C in a terminal for one, are the server's to act upon: it lets its workers finish.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from wordbrush.errors import WordbrushError
from wordbrush.serving import logs
from wordbrush.serving.workers.protocol import (
    Batch,
    Cancel,
    DropModels,
    Dropped,
    Finished,
    Order,
    Ready,
    Reports,
    Setup,
    State,
    Stop,
    Unfit,
    Watch,
)
from wordbrush.serving.workers.rows import Desk

if TYPE_CHECKING:
    from wordbrush.serving.workers.models import Models


def run(setup: Setup, connection: Connection) -> None:
    """The process's main function; returns when it is told to stop."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _settle_down(setup)
    if setup.settings is not None:
        logs.configure(setup.settings)
    worker = _Worker(setup, connection)
    threading.Thread(target=worker.listen, name="listener", daemon=True).start()
    worker.work()


class _Worker:
    def __init__(self, setup: Setup, connection: Connection) -> None:
        self._setup, self._connection = setup, connection
        self._desk = Desk()
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()

    def listen(self) -> None:
        """Takes orders, in a thread of its own: what concerns the batch that is painted has effect at once."""
        while True:
            try:
                order: Order = self._connection.recv()
            except (EOFError, OSError):
                os._exit(1)  # the server has ended; nobody is left to paint for
            if isinstance(order, Cancel):
                self._desk.cancel(order)
            elif isinstance(order, Watch):
                self._desk.watch(order.job_id, watched=order.watched)
            else:
                if isinstance(order, Batch):
                    tasks = order.tasks
                    self._desk.begin([task.job_id for task in tasks], {task.job_id for task in tasks if task.watched})
                self._orders.put(order)

    def send(self, reports: Reports) -> None:
        """Says something to the server; from the working thread alone."""
        if reports:
            try:
                self._connection.send(reports)
            except OSError:
                os._exit(1)

    def work(self) -> None:
        """Takes one order after the other."""
        from wordbrush.serving.catalogue import Catalogue
        from wordbrush.serving.workers.painter import Painter

        try:
            models = _models(self._setup)
            for name in self._setup.preload:
                models.pipeline(name, None)
        except WordbrushError as error:
            self.send((Unfit(str(error)),))
            return
        painter = Painter(self._setup, models, Catalogue(), self._desk, self.send)
        self.send((Ready(_state(models)),))
        while True:
            order = self._orders.get()
            if isinstance(order, Stop):
                return
            if isinstance(order, DropModels):
                models.drop()
                self.send((Dropped(_state(models)),))
            elif isinstance(order, Batch):
                painter.do(order.tasks)
                self.send((Finished(_state(models)),))


def _models(setup: Setup) -> Models:
    import torch

    from wordbrush.formats.inspect import inspect_model
    from wordbrush.formats.open import locate_model
    from wordbrush.runtime.memory import keep_freed_memory
    from wordbrush.serving.workers.models import Models

    keep_freed_memory()
    if setup.threads is not None:
        torch.set_num_threads(setup.threads)
    device = setup.device
    if device in ("auto", "cuda") and torch.cuda.device_count() > 1:
        device = f"cuda:{setup.number % torch.cuda.device_count()}"

    def estimate(name: str) -> int:
        with contextlib.suppress(WordbrushError):
            return int(inspect_model(locate_model(name)).get("bytes", 0))
        return 0

    return Models(device, setup.dtype, setup.cache_bytes, estimate)


def _state(models: Models) -> State:
    from wordbrush.serving.workers.models import used_bytes

    device = models.runtime.device
    return State(device=f"{device} ({models.runtime.dtype_name})", models=models.sizes, memory=used_bytes(device))


def _settle_down(setup: Setup) -> None:
    """Where names are never files by accident, and nothing is fetched: what the catalogue has is all there is."""
    folders = os.environ.get("WORDBRUSH_MODELS", "").split(os.pathsep)
    os.environ["WORDBRUSH_MODELS"] = os.pathsep.join(str(Path(one).expanduser().absolute()) for one in folders if one)
    os.environ["HF_HUB_OFFLINE"] = "1"
    empty = setup.data / "empty"
    empty.mkdir(parents=True, exist_ok=True)
    os.chdir(empty)
