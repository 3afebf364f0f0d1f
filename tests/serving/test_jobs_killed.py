"""SIGKILL at any moment: what was promised is kept, and nothing is done twice."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.serving.queue_process import CANCELLED
from tests.serving.queues import POSTGRES, emptied, opened

from wordbrush.serving.store import JobFilter
from wordbrush.serving.work import LOCAL, Generate, JobState

ROOT = Path(__file__).resolve().parents[2]


def run(folder: Path, first: int, last: int, seconds: float | None, database: str | None) -> list[list[str]]:
    """Starts the process and kills it `seconds` after its queue is open, or when nothing is left; what it said."""
    command = [sys.executable, "-m", "tests.serving.queue_process", str(folder), str(first), str(last)]
    command += [database] if database else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "open\n"
            if seconds is None:
                said = list(iter(process.stdout.readline, "idle\n"))
                assert process.poll() is None
            else:
                time.sleep(seconds)
                said = []
        finally:
            process.kill()
        rest = process.stdout.read()
    return [line.split() for line in [*said, *rest.splitlines()] if line.strip() != "idle"]


def check(tmp_path: Path, rounds: int, seed: int, database: str | None = None) -> None:
    chance = random.Random(seed)
    promised: list[list[str]] = []
    for number in range(rounds):
        promised += run(tmp_path / "data", 0, 40 * (number + 1), chance.uniform(0.0, 0.5), database)
    total = 40 * rounds
    promised += run(tmp_path / "data", 0, total, None, database)

    asked: dict[str, set[str]] = {}
    ended = Counter((words[0], words[1]) for words in promised if words[0] != "asked")
    for words in promised:
        if words[0] == "asked":
            asked.setdefault(words[1], set()).add(words[2])
    assert len(asked) == total
    assert all(len(ids) == 1 for ids in asked.values())  # a repeated request is the same job, over all the crashes
    assert set(ended.values()) == {1}  # and each ended once
    with opened(tmp_path, database=database) as jobs:
        assert jobs.queue(LOCAL) == ()
        assert jobs.list(LOCAL, JobFilter(text="number")).total == total
        files = jobs._store.pictures
        for ids in asked.values():
            (job_id,) = ids
            job = jobs.get(job_id, LOCAL)
            assert isinstance(job.work, Generate)
            seed = job.work.request.seed or 0
            if seed % CANCELLED == 0:
                assert job.state is JobState.CANCELLED
                continue
            assert job.state is JobState.DONE
            (picture,) = job.pictures
            data = files.read(picture.sha256)
            assert len(data) == picture.bytes
            image = jobs._store.inputs.image(picture.sha256)
            assert image.getpixel((0, 0)) == seed % 256
        for kind, job_id in ended:
            assert jobs.get(job_id, LOCAL).state == kind


def test_nothing_is_lost_or_done_twice(tmp_path: Path) -> None:
    check(tmp_path, rounds=3, seed=20)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_lost_or_done_twice_over_many_crashes(tmp_path: Path, seed: int) -> None:
    check(tmp_path, rounds=25, seed=seed)


@pytest.mark.skipif(POSTGRES not in os.environ, reason=f"{POSTGRES} names no PostgreSQL database")
def test_the_same_on_postgresql(tmp_path: Path) -> None:
    with emptied() as url:
        check(tmp_path, rounds=4, seed=21, database=url)
