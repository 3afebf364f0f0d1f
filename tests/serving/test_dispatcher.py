"""Worker processes for real: they paint, are cancelled, are killed, and the queue never loses anything."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.serving.queues import opened
from tests.serving.waiting import until
from tests.serving.worker_parts import PROMPT, library, work

import wordbrush
from wordbrush.serving.store import Jobs
from wordbrush.serving.work import LOCAL, Job, JobState, StoredPicture
from wordbrush.serving.workers.dispatcher import Dispatcher

SECONDS = 120


@pytest.fixture
def models(tmp_path: Path, tiny_v_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORDBRUSH_MODELS", str(library(tmp_path / "models", tiny_v_folder, "tiny")))
    return tmp_path / "models" / "tiny"


@contextmanager
def painting(folder: Path, grace: float = 20, **settings: Any) -> Iterator[tuple[Jobs, Dispatcher]]:
    values = {"device": "cpu", "dtype": "float32", "threads": 1, **settings}
    with opened(folder, **values) as jobs:
        dispatcher = Dispatcher(jobs, jobs._store, jobs._store.settings)
        dispatcher.start()
        try:
            yield jobs, dispatcher
        finally:
            dispatcher.stop(grace)


def submit(jobs: Jobs, *works: Any) -> list[str]:
    return [jobs.submit(one, LOCAL, source="v1").id for one in works]


def ended(jobs: Jobs, ids: list[str]) -> list[Job]:
    found = [jobs.wait(job_id, SECONDS) for job_id in ids]
    assert all(job.state.ended for job in found), found
    return found


def image(jobs: Jobs, job: Job, index: int = 0) -> bytes:
    return jobs._store.inputs.image(job.pictures[index].sha256).tobytes()


def test_a_workers_life(tmp_path: Path, models: Path) -> None:
    """One after the other with one process, for it takes seconds to start."""
    pipe = wordbrush.load(models, dtype="float32")
    with painting(tmp_path) as (jobs, dispatcher):
        # jobs that come together are painted together, in many states of hurry
        jobs.pause()
        ids = submit(jobs, *(work(seed=seed) for seed in range(5)), work(seed=9, width=33), work(seed=9, steps=3))
        jobs.resume()
        done = ended(jobs, ids)
        assert [job.state for job in done] == [JobState.DONE] * 5 + [JobState.FAILED, JobState.DONE]
        assert [image(jobs, job) for job in done[:5]] == [
            pipe(PROMPT, seed=seed).images[0].tobytes() for seed in range(5)
        ]
        assert done[5].problem is not None
        assert "multiple of 4" in done[5].problem.message
        (status,) = dispatcher.status()
        until(lambda: dispatcher.status()[0].state == "ready", SECONDS)
        (status,) = dispatcher.status()
        assert (status.starts, status.jobs, list(status.models)) == (1, (), ["tiny"])
        assert status.models["tiny"] > 100_000 < status.memory

        # one is cancelled while its neighbour goes on
        jobs.pause()
        first, second = submit(jobs, work(seed=1, steps=60), work(seed=2, steps=60))
        feed = jobs.watch(first, LOCAL, timeout=SECONDS)
        jobs.resume()
        kinds = []
        for event in feed:
            kinds.append(event.type)
            if event.type == "preview":
                jobs.cancel(first, LOCAL, keep_partial=True)
        cancelled, other = ended(jobs, [first, second])
        assert (cancelled.state, other.state) == (JobState.CANCELLED, JobState.DONE)
        assert [picture.role for picture in cancelled.pictures] == ["partial"]
        assert image(jobs, other) == pipe(PROMPT, seed=2, steps=60).images[0].tobytes()
        assert {"preview", "progress", "picture", "state"} <= set(kinds)

        # a process that is killed is started again, and its job begins anew
        (job_id,) = submit(jobs, work(seed=3, steps=250))
        until(lambda: (jobs.get(job_id, LOCAL).progress or None) and jobs.get(job_id, LOCAL).progress.step > 2, SECONDS)
        pid = dispatcher.status()[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        until(lambda: dispatcher.status()[0].starts == 2, SECONDS)
        (again,) = ended(jobs, [job_id])
        assert (again.state, again.attempts) == (JobState.DONE, 2)
        assert image(jobs, again) == pipe(PROMPT, seed=3, steps=250).images[0].tobytes()

        dispatcher.drop_models()
        until(lambda: dispatcher.status()[0].models == {}, SECONDS)

        # no time is left: what runs goes back to the queue, and counts no attempt
        (late,) = submit(jobs, work(seed=4, steps=400, count=16))
        until(lambda: jobs.get(late, LOCAL).state is JobState.RUNNING, SECONDS)
        pid = dispatcher.status()[0].pid
        assert pid is not None
        dispatcher.stop(0)
        job = jobs.get(late, LOCAL)
        assert (job.state, job.attempts) == (JobState.QUEUED, 0)
        assert not psutil.pid_exists(pid)


def test_an_error_that_nobody_foresaw_ends_no_worker_for_good(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with painting(tmp_path) as (jobs, dispatcher):
        take, raised = jobs.picture, list[str]()

        def picture(job_id: str, one: StoredPicture) -> None:
            if not raised:
                raised.append(job_id)
                raise ZeroDivisionError("of all things")
            take(job_id, one)

        monkeypatch.setattr(jobs, "picture", picture)
        (job_id,) = submit(jobs, work(seed=1, steps=3))
        (job,) = ended(jobs, [job_id])
        assert (job.state, job.attempts, len(job.pictures)) == (JobState.DONE, 2, 1)
        assert dispatcher.status()[0].starts == 2


def test_a_worker_that_cannot_begin_says_why(tmp_path: Path) -> None:
    with painting(tmp_path, device="cuda:77") as (jobs, dispatcher):
        (job_id,) = submit(jobs, work(seed=1))
        status = until(lambda: (found := dispatcher.status()[0]).problem and found, SECONDS)
        assert "CUDA" in status.problem or "cuda" in status.problem
        assert jobs.get(job_id, LOCAL).state is JobState.QUEUED
