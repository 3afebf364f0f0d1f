"""The server's process from its start to its end: the address, the signals, and a shutdown that loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import multiprocessing
import signal
import socket
import threading
from types import FrameType
from typing import TYPE_CHECKING

import structlog
import typer
import uvicorn

from wordbrush.errors import RequestError, WorkFailed
from wordbrush.serving import logs
from wordbrush.serving.app import create_app
from wordbrush.serving.guard import listening
from wordbrush.serving.guard.caller import check_bind

if TYPE_CHECKING:
    from wordbrush.serving.server import Server
    from wordbrush.serving.settings import Settings

log = structlog.get_logger("wordbrush.serving")

LAST_ANSWERS = 5.0
"""Seconds that open connections get when all jobs have ended."""


def run(settings: Settings) -> None:
    """Serves until a signal ends it.

    The first SIGTERM or SIGINT (Ctrl-C): no more jobs are taken (503), those that run finish within
    `settings.shutdown_grace` or go back to the queue, and event streams end. The second one: at once.

    Raises:
        RequestError: the address, the data folder or the database cannot be used.
    """
    logs.configure(settings)
    with _listening(settings) as bound:
        app = create_app(settings)
        server: Server = app.state.server
        try:
            check_bind(settings, server.store.keys)
        except RequestError:
            server.close()
            raise
        config = listening.config(app, settings)
        config.timeout_graceful_shutdown = int(LAST_ANSWERS)
        process = _Process(config, server)
        process.run(sockets=[bound])
        if not process.started:
            raise WorkFailed("the server could not be started; its log says why")


def _listening(settings: Settings) -> socket.socket:
    """The socket, bound before anything else is begun. Raises `RequestError`."""
    host = settings.host.strip("[]")
    try:
        family, *_, address = socket.getaddrinfo(
            host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise RequestError(f"host={settings.host} is no address of this machine: {error.strerror or error}") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(1)  # two that are not listening yet may bind the same port; uvicorn raises the backlog
    except OSError as error:
        bound.close()
        raise RequestError(_why_not(settings, error)) from error
    return bound


def _why_not(settings: Settings, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port={settings.port} on {settings.host} is in use; end what uses it, or choose another with --port"
    if error.errno == errno.EACCES:
        return f"port={settings.port} takes more rights than you have; choose one from 1024 on with --port"
    return f"{settings.host}:{settings.port} cannot be listened on: {error.strerror or error}"


class _Process(uvicorn.Server):
    """uvicorn that lets the jobs end before the connections do."""

    def __init__(self, config: uvicorn.Config, server: Server) -> None:
        super().__init__(config)
        self._server = server
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: threading.Thread | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Says in one line where the server is, once it answers."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets=sockets)
        if self.started and sockets:
            typer.echo(f"Wordbrush listens at {_url(self._server.settings, sockets[0])}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal lets the jobs end, the second one does not wait."""
        if self._draining is None and self._loop is not None:
            self._server.closing = True
            self._draining = threading.Thread(target=self._drain, args=(sig,), name="drain", daemon=True)
            self._draining.start()
            return
        for worker in multiprocessing.active_children():  # what they do goes back to the queue
            worker.kill()
        self._finish()

    def _drain(self, sig: int) -> None:
        try:
            name, grace = signal.Signals(sig).name, self._server.settings.shutdown_grace
            log.info("ending: running jobs may finish", signal=name, grace=grace)
            self._server.drain()
        finally:
            self._finish()

    def _finish(self) -> None:
        """Ends streams and connections; from any thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(self._server.ended.set)
        self.should_exit = True


def _url(settings: Settings, bound: socket.socket) -> str:
    """Where a browser on this machine finds it."""
    host, port = bound.getsockname()[:2]
    if settings.public_url is not None:
        return settings.public_url
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
