"""The whole OpenAPI document against the running server, by schemathesis: nothing breaks, and answers are as described.

Every operation is sent data that fits its schema and data that does not, with the key, with a wrong one and without.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
from limits import parse
from tests.serving.painter import Painter

from wordbrush.serving.app import create_app
from wordbrush.serving.guard import gate, listening
from wordbrush.serving.settings import Settings

# What a schema cannot say (fields that exclude each other, base64 that is a picture, names that there are) may be
# refused. A model may be called "unload" and a job "upscale", so GET is allowed there, and said to be.
CONFIG = """
[checks]
positive_data_acceptance.enabled = false

[[operations]]
include-path-regex = "^/v1/(models/(unload|refresh)|jobs/(describe|explain|upscale))$"
checks.unsupported_method.enabled = false
checks.allow_header_conformance.enabled = false
"""


@dataclass(frozen=True)
class Listening:
    url: str
    secret: str


@contextmanager
def listening_server(folder: Path) -> Iterator[Listening]:
    """The application behind uvicorn, with the quick painter and a key that is no admin's (it cannot pause)."""
    settings = Settings(
        data=folder, studio=False, port=0, max_pictures=8, max_side=512, max_body="4MiB", rate=None, shutdown_grace=5
    )
    app = create_app(settings, Painter)
    _, secret = app.state.server.store.keys.add("fuzz")
    server = uvicorn.Server(listening.config(app, settings))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.02)
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        yield Listening(f"http://{host}:{port}", secret)
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listening]:
    monkeypatch.setattr(gate, "FAILURES", parse("1000000/minute"))  # wrong keys are sent on purpose
    with listening_server(tmp_path / "data") as found:
        yield found


def schemathesis(server: Listening, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    config = folder / "schemathesis.toml"
    config.write_text(CONFIG)
    command = [
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", f"{server.url}/openapi.json",
        "--header", f"Authorization: Bearer {server.secret}", "--no-color", "--continue-on-failure",
        "--request-timeout", "60", "--generation-database", "none", "--exclude-path-regex", "/events$", *flags,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, timeout=1800)


def check(found: subprocess.CompletedProcess[str]) -> None:
    told = found.stdout[found.stdout.find("FAILURES") :][-20_000:]
    assert found.returncode == 0, told + found.stderr[-2000:]
    assert "Traceback" not in found.stderr


def test_what_the_document_says_is_so(server: Listening, tmp_path: Path) -> None:
    check(schemathesis(server, tmp_path, "--phases", "coverage,fuzzing", "-n", "2", "--max-time", "10", "--seed", "1"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_it_is_so_for_much_more_data_and_for_calls_that_follow_each_other(
    server: Listening, tmp_path: Path, seed: int
) -> None:
    flags = ("--phases", "examples,coverage,fuzzing,stateful", "-n", "60", "--max-time", "600", "--seed", str(seed))
    check(schemathesis(server, tmp_path, *flags))
