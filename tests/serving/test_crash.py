"""The real server, killed while it paints: what was promised is kept, and nothing is painted or counted twice."""

from __future__ import annotations

import contextlib
import hashlib
import random
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.serving.conftest import Served, run_serve

STEPS = 6
BATCH = 4


def request_of(number: int) -> dict[str, Any]:
    return {"prompt": f"a fox and {number % 3} trees", "seed": number, "steps": STEPS}


def ask(client: httpx.Client, number: int) -> dict[str, Any]:
    """What a careful client does, again and again until it has an answer: the same key each time."""
    answer = client.post("/v1/jobs", json=request_of(number), headers={"Idempotency-Key": f"number-{number}"})
    assert answer.status_code in (200, 201, 202), answer.text
    found: dict[str, Any] = answer.json()
    return found


def history(client: httpx.Client, **wanted: Any) -> dict[str, dict[str, Any]]:
    """All jobs by their id, page by page."""
    found: dict[str, dict[str, Any]] = {}
    cursor: dict[str, str] = {}
    while True:
        page = client.get("/v1/jobs", params={"limit": 7, **wanted, **cursor}).json()
        found |= {job["id"]: job for job in page["jobs"]}
        if page["next_cursor"] is None:
            return found
        cursor = {"cursor": page["next_cursor"]}


def processes_of(server: int) -> set[int]:
    """Its children and theirs."""
    found: set[int] = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            pid, parent = int(stat.parent.name), int(stat.read_text().rpartition(")")[2].split()[1])
            if parent == server:
                found |= {pid} | processes_of(pid)
    return found


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_until_one_runs(client: httpx.Client) -> None:
    """Or until all are done, where this process was too slow to see it."""
    end = time.monotonic() + 120
    while "running" not in (states := {job["state"] for job in history(client).values()}) and "queued" in states:
        assert time.monotonic() < end
        time.sleep(0.02)


def crash(served: Served, client: httpx.Client, seconds: float) -> dict[str, dict[str, Any]]:
    """Kills the server while it paints; what it had said to be done before."""
    workers = processes_of(served.process.pid)
    wait_until_one_runs(client)
    time.sleep(seconds)
    done = history(client, state="done")
    served.process.kill()
    served.process.wait()
    end = time.monotonic() + 20
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < end, "workers go on without their server"
        time.sleep(0.05)
    return done


def check(tmp_path: Path, kills: int, count: int, seed: int) -> None:
    chance = random.Random(seed)
    flags = ("--no-studio", "--batch", str(BATCH))
    promised: dict[int, str] = {}
    said: dict[str, dict[str, Any]] = {}
    for crashes in range(kills):
        with run_serve(tmp_path / "data", *flags, ready=120) as served, served.client() as client:
            for number in range(count * (crashes + 1)):  # each time some are new, so that something runs
                job = ask(client, number)
                assert promised.setdefault(number, job["id"]) == job["id"]
            said |= crash(served, client, chance.uniform(0, 1.5))
    with run_serve(tmp_path / "data", *flags, ready=120) as served, served.client() as client:
        assert {ask(client, number)["id"] for number in promised} == set(promised.values())
        for job_id in promised.values():
            job = client.get(f"/v1/jobs/{job_id}", params={"wait": 120}).json()
            assert job["state"] == "done", job
        found = history(client)
        assert set(found) == set(promised.values())
        for job_id, job in said.items():  # what was done before a crash was not done again
            assert found[job_id]["finished"] == job["finished"]
            assert found[job_id]["pictures"] == job["pictures"]
        for number, job_id in promised.items():
            (picture,) = found[job_id]["pictures"]
            assert picture["seed"] == number
            data = client.get(f"/v1/images/{picture['sha256']}.png").content
            assert hashlib.sha256(data).hexdigest() == picture["sha256"]
        again = client.post("/v1/jobs", json=request_of(0)).json()
        again = client.get(f"/v1/jobs/{again['id']}", params={"wait": 120}).json()
        # Painted alone, and not in a batch that was interrupted: the same file.
        assert again["pictures"][0]["sha256"] == found[promised[0]]["pictures"][0]["sha256"]


def test_a_killed_server_goes_on_where_it_was(tmp_path: Path) -> None:
    check(tmp_path, kills=1, count=12, seed=1)


@pytest.mark.slow
def test_a_server_that_is_killed_again_and_again_finishes_everything_once(tmp_path: Path) -> None:
    check(tmp_path, kills=8, count=12, seed=2)
