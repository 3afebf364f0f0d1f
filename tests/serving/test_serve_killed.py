"""`wordbrush serve` killed at any moment, with its workers painting: nothing is lost, and nothing is there twice."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import torch
from PIL import Image
from tests.serving.conftest import run_serve

import wordbrush
from wordbrush.serving.store.files import PictureFiles

KILLS = 4
JOBS = 24
# In float32 the last bits of decoding hang on how many threads torch has.
FLAGS = (
    "--threads",
    "1",
    "--device",
    "cpu",
    "--dtype",
    "float32",
    "--no-studio",
    "--batch",
    "4",
    "--queue-limit",
    "200",
)


def body(number: int) -> dict[str, Any]:
    return {"prompt": "a fox on a blue background", "seed": number, "steps": 2 + number % 2, "count": 1 + number % 2}


def ask(client: httpx.Client, numbers: Sequence[int]) -> dict[int, str]:
    """What clients do that were cut off: they ask for everything again, with the same keys."""
    found = {}
    for number in numbers:
        answer = client.post("/v1/jobs", json=body(number), headers={"Idempotency-Key": f"job-{number}"})
        assert answer.is_success, answer.text
        found[number] = answer.json()["id"]
    return found


def children(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


@pytest.mark.slow
def test_what_was_promised_is_done_once(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    chance, data = random.Random(11), tmp_path / "data"
    ids: dict[int, str] = {}
    done_before: dict[str, list[str]] = {}
    for kill in range(KILLS):
        with run_serve(data, *FLAGS) as server, server.client() as client:
            found = ask(client, range(JOBS * (kill + 1) // KILLS))
            assert all(ids.get(number, job_id) == job_id for number, job_id in found.items())
            ids |= found
            for job_id, pictures in done_before.items():  # what was done is as it was
                assert [one["sha256"] for one in client.get(f"/v1/jobs/{job_id}").json()["pictures"]] == pictures
            _some_are_done(client, chance.randint(1, 3) * (kill + 1))
            time.sleep(chance.uniform(0, 1.5))
            for job_id in ids.values():
                job = client.get(f"/v1/jobs/{job_id}").json()
                if job["state"] == "done":
                    done_before[job_id] = [one["sha256"] for one in job["pictures"]]
            workers = children(server.process.pid)
            server.process.kill()
            server.process.wait()
        psutil.wait_procs(workers, 60)
        assert not [one for one in workers if one.is_running() and one.status() != psutil.STATUS_ZOMBIE], (
            "workers go too"
        )
    with run_serve(data, *FLAGS) as server, server.client() as client:
        ids |= ask(client, range(JOBS))
        jobs = {number: _ended(client, job_id) for number, job_id in ids.items()}
        listed = client.get("/v1/jobs", params={"limit": 100}).json()
    assert {job["state"] for job in jobs.values()} == {"done"}
    assert len(set(ids.values())) == JOBS == listed["total"]
    files = PictureFiles(data)
    pipe = wordbrush.load(dtype="float32")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    request.addfinalizer(lambda: torch.set_num_threads(threads))
    for number, job in jobs.items():
        assert [one["index"] for one in job["pictures"]] == list(range(1 + number % 2)), "each picture once"
        for picture in job["pictures"]:
            assert len(files.read(picture["sha256"])) == picture["bytes"]
    for number in range(0, JOBS, 8):  # and with the pixels that they have without any of this
        path = files.path(jobs[number]["pictures"][0]["sha256"])
        assert path is not None
        expected = pipe(**{**body(number), "count": 1}).images[0]
        with Image.open(path) as image:
            assert image.tobytes() == expected.tobytes()
    with sqlite3.connect(data / "wordbrush.db") as database:
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)


def _some_are_done(client: httpx.Client, number: int) -> None:
    limit = time.monotonic() + 300
    while client.get("/v1/jobs", params={"state": "done", "limit": 1}).json()["total"] < number:
        assert time.monotonic() < limit
        time.sleep(0.1)


def _ended(client: httpx.Client, job_id: str) -> dict[str, Any]:
    for _ in range(30):
        job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}", params={"wait": 20}).json()
        if job["state"] in ("done", "failed", "cancelled"):
            return job
    raise AssertionError(job)
