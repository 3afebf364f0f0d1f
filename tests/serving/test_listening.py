"""Clients that are slow or many, over real sockets: nobody holds a connection for longer than it is worth."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from wordbrush.serving.guard import listening
from wordbrush.serving.settings import Settings

sent = threading.Event()


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Says how long the body was; /early answers without reading it, and /long at length."""
    if scope["type"] != "http":
        return
    if scope["path"] == "/long":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for left in reversed(range(1024)):  # 64 MiB: more than systems keep for a client that does not read
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": left > 0})
        sent.set()
        return
    length, more = 0, scope["path"] != "/early"
    while more:
        message = await receive()
        length, more = length + len(message.get("body", b"")), message.get("more_body", False)
    body = str(length).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def running(folder: Path) -> Iterator[tuple[str, int]]:
    """The application behind `listening.config`, in a thread; gives its address."""
    config = listening.config(app, Settings(data=folder, port=0))
    config.lifespan = "off"
    config.load()
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[:2]
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    monkeypatch.setattr(listening.PatientProtocol, "headers_within", 0.5)
    monkeypatch.setattr(listening, "LINGER", 0.5)
    with running(tmp_path) as place:
        yield place


def all_of(connection: socket.socket, within: float = 3.0) -> bytes:
    """What comes until the other side closes. Fails when it does not within so many seconds."""
    connection.settimeout(within)
    parts = []
    with suppress(ConnectionResetError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def test_a_client_that_says_nothing_is_left(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection:
        began = time.monotonic()
        assert all_of(connection) == b""
        assert 0.3 < time.monotonic() - began < 2


def test_headers_that_drip_are_given_up(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection:
        began = time.monotonic()
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")
            for number in range(30):
                connection.sendall(f"X-{number}: a\r\n".encode())
                time.sleep(0.1)
        assert time.monotonic() - began < 2.5
        with suppress(ConnectionResetError):
            assert all_of(connection).startswith(b"HTTP/1.1 408")


def test_so_are_those_of_the_second_request(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        time.sleep(0.2)
        connection.sendall(b"GET / HT")
        began = time.monotonic()
        answer = all_of(connection)
        assert 0.3 < time.monotonic() - began < 2
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"HTTP/1.1 408" in answer


def test_a_slow_but_whole_request_is_answered(address: tuple[str, int]) -> None:
    """The body may take longer than headers may; `guard.reading` says how long."""
    with socket.create_connection(address) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n")
        time.sleep(0.2)
        connection.sendall(b"Content-Length: 3\r\n\r\na")
        time.sleep(0.7)
        connection.sendall(b"bc")
        answer = all_of(connection)
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.endswith(b"3")
        assert b"server:" not in answer.lower()


def test_who_is_answered_early_cannot_go_on_sending(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(b"POST /early HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000000\r\n\r\n")
        began = time.monotonic()
        with suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(60):
                connection.sendall(b"x")
                time.sleep(0.05)
        assert 0.3 < time.monotonic() - began < 2


def test_a_body_that_comes_after_its_answer_ends_nothing(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection:
        for _ in range(3):
            connection.sendall(b"POST /early HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\n\r\n")
            time.sleep(0.1)
            connection.sendall(b"abc")
            time.sleep(0.3)
        connection.sendall(b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: 3\r\n\r\n")
        time.sleep(0.4)
        connection.sendall(b"abc")
        assert all_of(connection).count(b"HTTP/1.1 200") == 4


def test_large_or_damaged_headers_are_refused(address: tuple[str, int]) -> None:
    for request in (
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: a\0b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
    ):
        with socket.create_connection(address) as connection:
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(request)
            assert all_of(connection)[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.1 500")


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux alone gives up by itself")
def test_who_reads_nothing_of_the_answer_is_left(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "UNREAD", 1.0)
    sent.clear()
    with socket.create_connection(address) as connection:
        connection.sendall(b"GET /long HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert not sent.wait(0.7)
        assert sent.wait(10)


def test_two_hundred_silent_connections_do_not_keep_others_out(address: tuple[str, int]) -> None:
    silent = [socket.create_connection(address) for _ in range(200)]
    try:
        with socket.create_connection(address) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            assert all_of(connection).startswith(b"HTTP/1.1 200")
    finally:
        for connection in silent:
            connection.close()


def test_one_address_has_only_so_many_connections(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening.PatientProtocol, "most_from_one", 3)
    monkeypatch.setattr(listening, "_is_own", lambda client: False)
    opened = [socket.create_connection(address) for _ in range(3)]
    try:
        time.sleep(0.1)
        with socket.create_connection(address) as connection:
            connection.settimeout(0.3)
            with suppress(ConnectionResetError):
                assert connection.recv(1) == b""
    finally:
        for connection in opened:
            connection.close()
