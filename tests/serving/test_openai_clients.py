"""The unmodified `openai` client against the real server and the embedded model: the newest one, and an older major.

`openai_suite.py` is what both must be able to do. The older one lies in `.venv/clients/openai-1`, put there by the
Makefile with the test tools.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from tests.serving.conftest import Served, run_serve

SUITE = Path(__file__).with_name("openai_suite.py")
OLDER = Path(sys.prefix) / "clients" / "openai-1"

# What takes seconds; the rest is run with the slow tests.
QUICK = (
    "models_are_listed_and_read", "a_text_is_painted", "pictures_are_streamed_with_three_partials",
    "an_edit_with_a_mask_keeps_the_rest", "addresses_open_without_a_key", "errors_are_typed", "a_wrong_key_is_refused",
)  # fmt: skip


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, str]]:
    """A real server that asks for a key, and a key."""
    home = tmp_path_factory.mktemp("guarded")
    environment = {"WORDBRUSH_HOME": str(home / "wordbrush"), "HF_HUB_CACHE": str(home / "hub")}
    command = [sys.executable, "-m", "wordbrush", "keys", "add", "suite", "--data", str(home / "data")]
    made = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment})
    key = next(word for word in made.stdout.split() if word.startswith("wb_"))
    with run_serve(home / "data", "--no-studio", environment=environment) as served:
        yield served, key


def run_suite(guarded: tuple[Served, str], packages: Path | None, *checks: str) -> str:
    """What the suite printed; fails when a check did."""
    served, key = guarded
    environment = {**os.environ, "PYTHONPATH": "" if packages is None else str(packages)}
    command = [sys.executable, str(SUITE), served.url, key, *checks]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr + "".join(served.log[-20:])
    return run.stdout


def older() -> Path:
    if not (OLDER / "openai").is_dir():
        pytest.skip("the older client is not installed; `make test` does it")
    return OLDER


def test_the_newest_client(guarded):
    assert f"{len(QUICK)} passed" in run_suite(guarded, None, *QUICK)


def test_an_older_major(guarded):
    text = run_suite(guarded, older(), *QUICK)
    assert f"openai 1.109.1: {len(QUICK)} passed" in text


@pytest.mark.slow
@pytest.mark.parametrize("version", ["newest", "older"])
def test_everything(guarded, version):
    text = run_suite(guarded, older() if version == "older" else None)
    assert "0 failed" in text


@pytest.mark.slow
def test_a_client_that_tries_again_after_a_crash_gets_the_job_it_had(tmp_path):
    environment = {"WORDBRUSH_HOME": str(tmp_path / "wordbrush"), "HF_HUB_CACHE": str(tmp_path / "hub")}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    made: list[openai.types.ImagesResponse] = []

    def ask() -> None:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="unused", max_retries=8)
        made.append(client.images.generate(prompt="a fox", n=4, extra_body={"steps": 150}))

    asking = threading.Thread(target=ask)
    with run_serve(tmp_path / "data", "--no-studio", "--port", port, environment=environment) as served:
        asking.start()
        with served.client() as client:
            for _ in range(100):
                queue = client.get("/v1/queue")
                assert queue.status_code == 200, queue.text
                if queue.json()["running"]:
                    break
                time.sleep(0.2)
        served.end(signal.SIGKILL)
    with run_serve(tmp_path / "data", "--no-studio", "--port", port, environment=environment) as served:
        asking.join(240)
        with served.client() as client:
            jobs = client.get("/v1/jobs").json()
    assert len(made[0].data or []) == 4
    assert [job["state"] for job in jobs["jobs"]] == ["done"]
