"""What the parts of the server share: the settings, the store, the queue, the models there are, and who paints."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from wordbrush.serving.catalogue import Catalogue
from wordbrush.serving.settings import Settings
from wordbrush.serving.signatures import Signatures
from wordbrush.serving.store import Jobs, Store


class Painters(Protocol):
    """What the server wants of the dispatcher; see `serving.workers`."""

    def start(self) -> None:
        """Starts the worker processes; returns at once."""

    def stop(self, grace: float) -> None:
        """Hands out nothing more, waits `grace` seconds for what runs, puts the rest back into the queue."""

    def status(self) -> list[Any]:
        """Of each worker."""

    def drop_models(self) -> None:
        """Lets the workers forget their models."""


MakePainters = Callable[[Jobs, Store, Settings], Painters]


class Server:
    """One server's parts; `app.state.server` holds it.

    Attributes:
        closing: set when no more jobs are taken.
        ended: an event of the server's loop: nothing more will happen, so streams end.
    """

    def __init__(self, settings: Settings, make_painters: MakePainters) -> None:
        """Opens the data folder and the database, and puts jobs that an earlier server left running into the queue.

        Raises:
            RequestError: the folder cannot be used, or another server uses it, or the database cannot be opened.
        """
        self.settings = settings
        self.store = Store(settings)
        try:
            self.jobs = Jobs(self.store)
            self.catalogue = Catalogue(settings)
            self.signatures = Signatures.of(settings.data)
            self.dispatcher = make_painters(self.jobs, self.store, settings)
        except BaseException:
            self.store.close()
            raise
        self.started = time.time()
        self.closing = False
        self.ended = asyncio.Event()
        self._stopping = threading.Lock()
        self._stopped = False

    def start(self) -> None:
        """Starts the workers."""
        self.dispatcher.start()

    def drain(self) -> None:
        """Takes no more jobs, and lets those that run finish within the grace; blocks. Harmless the second time."""
        self.closing = True
        with self._stopping:
            if not self._stopped:
                self.dispatcher.stop(self.settings.shutdown_grace)
                self._stopped = True

    def close(self) -> None:
        """Ends what `start` and the opening began."""
        self.drain()
        self.jobs.close()
        self.store.close()
