"""How uvicorn listens: with patience that ends, for a bounded number of connections, and without naming itself.

uvicorn waits for a request's headers as long as a client likes, also on a connection that it has just accepted; a few
thousand clients that send one byte a minute would use up its files. Bodies are `guard.reading`'s to limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from wordbrush.serving.settings import Settings

HEADERS = 10.0
"""Seconds that a request's headers may take."""
UNREAD = 120.0
"""Seconds after which a client that reads nothing of its answer is left; Linux alone can do that."""
LINGER = 2.0
"""Seconds that a client may take to read an answer that was given before its body was read."""
CONNECTIONS = 1000
"""Open at the same time; one more is told 503."""
FROM_ONE_ADDRESS = 200
"""Open from one address at the same time, unless it is this machine's, which may be a proxy's."""


class PatientProtocol(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, with an end to waiting."""

    headers_within = HEADERS
    most_from_one = FROM_ONE_ADDRESS

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._too_many():
            transport.abort()
            return
        _give_up_unread(transport)
        self._timer = self.loop.call_later(self.headers_within, self._give_up)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_timer()
        elif self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_later(self.headers_within, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:  # the rest of its body would only be thrown away
            self.loop.call_later(LINGER, self._close_unless_read, self.cycle)

    def _close_unless_read(self, cycle: RequestResponseCycle) -> None:
        if self.cycle is cycle and self.conn.their_state is h11.SEND_BODY:
            self.transport.close()

    def _too_many(self) -> bool:
        if self.client is None or _is_own(self.client[0]):
            return False
        clients = [getattr(other, "client", None) for other in self.connections]
        same = sum(client is not None and client[0] == self.client[0] for client in clients)
        return same > self.most_from_one

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:  # a part of a request is there
            headers = [(b"content-length", b"0"), (b"connection", b"close")]
            for event in (h11.Response(status_code=408, headers=headers), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def _give_up_unread(transport: asyncio.Transport) -> None:
    connection, option = transport.get_extra_info("socket"), getattr(socket, "TCP_USER_TIMEOUT", None)
    if connection is not None and option is not None:
        with contextlib.suppress(OSError):  # it is no TCP
            connection.setsockopt(socket.IPPROTO_TCP, option, int(1000 * UNREAD))


def _is_own(address: str) -> bool:
    return address.startswith("127.") or address == "::1"


def config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    """What `wordbrush serve` gives to `uvicorn.Server`; the logs are configured elsewhere."""
    return uvicorn.Config(
        app,
        host=settings.host.strip("[]"),
        port=settings.port,
        http=PatientProtocol,
        ws="none",
        server_header=False,
        access_log=False,
        log_config=None,
        proxy_headers=settings.public_url is not None,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=15,
        h11_max_incomplete_event_size=64 * 1024,
        timeout_graceful_shutdown=None,
        backlog=512,
    )
