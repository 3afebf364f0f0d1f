"""Servers for tests: the application in this process with a quick painter, and the real one in its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from tests.serving.painter import Painter

from wordbrush.serving.app import Server, create_app
from wordbrush.serving.settings import Settings

BASE = "http://127.0.0.1:7860"


@dataclass
class Inside:
    """The application in this process, and a client of it."""

    app: FastAPI
    client: TestClient

    @property
    def server(self) -> Server:
        found: Server = self.app.state.server
        return found

    @property
    def painter(self) -> Painter:
        found = self.server.dispatcher
        assert isinstance(found, Painter)
        return found

    def ended(self, job_id: str, seconds: float = 20) -> dict[str, Any]:
        """The job, once it has ended."""
        job = self.client.get(f"/v1/jobs/{job_id}", params={"wait": seconds}).json()
        assert job["state"] in ("done", "failed", "cancelled"), job
        return job


OpenInside = Callable[..., AbstractContextManager[Inside]]


@pytest.fixture
def open_inside(tmp_path: Path) -> OpenInside:
    """Opens the application with the painter of these tests: `with open_inside(queue_limit=2) as inside`."""

    def opened(**settings: Any) -> AbstractContextManager[Inside]:
        return _inside(tmp_path / "data", **settings)

    return opened


@pytest.fixture
def inside(open_inside: OpenInside) -> Iterator[Inside]:
    """The application with the painter of these tests."""
    with open_inside() as found:
        yield found


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    """The same for all tests of a module that leave the queue as it was."""
    with _inside(tmp_path_factory.mktemp("shared")) as found:
        yield found


@contextmanager
def _inside(data: Path, **settings: Any) -> Iterator[Inside]:
    values = {"data": data, "studio": False, "shutdown_grace": 5, **settings}
    app = create_app(Settings(**values), Painter)
    with TestClient(app, base_url=BASE) as client:
        yield Inside(app, client)


@dataclass
class Served:
    """`wordbrush serve` in a process of its own."""

    process: subprocess.Popen[str]
    url: str = ""
    log: list[str] = field(default_factory=list)
    """What it has written on standard error."""

    def client(self, **options: Any) -> httpx.Client:
        """A client of it."""
        return httpx.Client(base_url=self.url, timeout=300, **options)

    def end(self, number: int = signal.SIGTERM, seconds: float = 60) -> int:
        """Sends it a signal, and returns the exit code when it has ended."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(seconds)


OpenServed = Callable[..., AbstractContextManager[Served]]


def run_serve(
    data: Path, *flags: str, environment: dict[str, str] | None = None, ready: float = 60
) -> AbstractContextManager[Served]:
    """Starts `wordbrush serve` on a free port and waits for its line; it is ended in any case."""

    @contextmanager
    def running() -> Iterator[Served]:
        command = [sys.executable, "-m", "wordbrush", "serve", "--port", "0", "--data", str(data), *flags]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        )  # fmt: skip
        served = Served(process)
        assert process.stderr is not None
        assert process.stdout is not None
        reader = threading.Thread(target=lambda: served.log.extend(process.stderr or ()), daemon=True)
        reader.start()
        timer = threading.Timer(ready, process.kill)
        timer.start()
        try:
            line = process.stdout.readline()
            timer.cancel()
            found = re.search(r"https?://\S+", line)
            assert found, "".join(served.log)
            served.url = found[0].rstrip("/")
            yield served
        finally:
            timer.cancel()
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            reader.join(5)
            process.stdout.close()
            process.stderr.close()

    return running()


@pytest.fixture
def open_served(tmp_path: Path) -> OpenServed:
    """Starts the real server, with the embedded model: `with open_served("--no-studio") as served`."""

    def opened(*flags: str, environment: dict[str, str] | None = None) -> AbstractContextManager[Served]:
        return run_serve(tmp_path / "data", *flags, environment=environment)

    return opened


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One real server for all tests of a module, with the embedded model and without the studio."""
    home = tmp_path_factory.mktemp("served")
    environment = {"WORDBRUSH_HOME": str(home / "wordbrush"), "HF_HUB_CACHE": str(home / "hub")}
    with run_serve(home / "data", "--no-studio", environment=environment) as found:
        yield found
