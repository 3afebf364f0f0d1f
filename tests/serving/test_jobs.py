"""The queue: coming in, cancelling, lists, what is deleted, and jobs that fail."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from PIL import Image
from tests.serving.queues import ANNA, BERT, KINDS, file_of, finish, on, opened, painted, settings_of, stored, submitted

from wordbrush.errors import RequestError
from wordbrush.inputs import InputPicture
from wordbrush.request import GenerationRequest
from wordbrush.serving.guard.keys import Limits
from wordbrush.serving.store import (
    Finished,
    IdempotencyConflict,
    JobFilter,
    Jobs,
    NoSuchJob,
    NotAllowed,
    QueueFull,
    Store,
    WrongState,
)
from wordbrush.serving.work import LOCAL, Describe, Explain, Generate, Job, JobState, Problem, Progress, Upscale


@pytest.fixture(params=KINDS, autouse=True)
def database(request: pytest.FixtureRequest) -> Iterator[None]:
    with on(request.param):
        yield


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    with opened(tmp_path, queue_limit=20) as found:
        yield found


def ids(found: object) -> list[str]:
    return [job.id for job in found]  # type: ignore[attr-defined]


def test_a_job_goes_its_way_and_is_the_same_after_a_restart(tmp_path: Path) -> None:
    with opened(tmp_path) as jobs:
        first = submitted(jobs, "a fox")
        second = submitted(jobs, "two foxes")
        assert (first.state, first.position, second.position, first.attempts) == (JobState.QUEUED, 0, 1, 0)
        assert first.id < second.id
        (running,) = jobs.next_batch("one", 1)
        assert (running.id, running.state, running.attempts, running.position) == (first.id, "running", 1, None)
        assert running.started is not None
        jobs.progress(first.id, Progress(step=3, steps=4))
        assert jobs.get(first.id, LOCAL).progress == Progress(step=3, steps=4)
        picture = stored(seed=7, request={"prompt": "a fox", "model": "tiny"}, label="ü")
        jobs.picture(first.id, picture)
        assert jobs.find_picture(picture.sha256, LOCAL) == picture
        jobs.done(first.id, {"caption": "ü"}, ["a note"])
        done = jobs.get(first.id, LOCAL)
        assert (done.state, done.pictures, done.output) == (JobState.DONE, (picture,), {"caption": "ü"})
        assert (done.notes, done.progress, done.position) == (("a note",), None, None)
        assert done.finished is not None
        assert done.created <= running.started <= done.finished
    with opened(tmp_path) as jobs:
        assert jobs.get(first.id, LOCAL) == done
        assert ids(jobs.queue(LOCAL)) == [second.id]
        assert jobs.find_picture(picture.sha256, LOCAL) == picture


@pytest.mark.parametrize(
    "work",
    [
        painted(steps=4, loras=[{"name": "fur", "unet": 0.5, "text": 1}], preset="quick", hires={"scale": 2}),
        painted(mask=[1, 2, 3, 4], image=InputPicture(path=None, sha256="cd" * 32), strength=0.5),
        Upscale(images=(InputPicture(path=None, sha256="ab" * 32),), scale=2),
        Explain(request=GenerationRequest(prompt="a fox", seed=1), columns=4),
        Describe(image=InputPicture(path=None, sha256="ab" * 32)),
    ],
)
def test_work_comes_back_from_the_database_as_it_was_given(tmp_path: Path, work: Generate) -> None:
    with opened(tmp_path) as jobs:
        job = jobs.submit(work, LOCAL, source="v1")
    with opened(tmp_path) as jobs:
        back = jobs.get(job.id, LOCAL).work
        assert back == work
        if isinstance(back, Generate):  # a preset fills in what was not given, so that must stay known
            assert back.request.model_fields_set == work.request.model_fields_set


def test_noise_comes_back_bit_by_bit(jobs: Jobs) -> None:
    import numpy as np

    noise = np.random.default_rng(0).standard_normal((1, 4, 8, 8), dtype=np.float32)
    work = painted(latents=noise)
    job = jobs.submit(work, LOCAL, source="v1")
    finish(jobs)
    back = jobs.get(job.id, LOCAL).work
    assert isinstance(back, Generate)
    assert back.request.latents == work.request.latents


def test_a_path_never_comes_into_the_queue(jobs: Jobs, tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(RequestError, match="never by a path"):
        jobs.submit(painted(image=str(tmp_path / "a.png")), LOCAL, source="v1")
    with pytest.raises(RequestError, match="never by a path"):
        jobs.submit(Describe(image=InputPicture(path="/etc/passwd", sha256=None)), LOCAL, source="v1")


def test_others_do_not_see_a_job_and_administrators_do(jobs: Jobs) -> None:
    job = submitted(jobs, caller=ANNA)
    calls = [jobs.get, jobs.cancel, jobs.delete, jobs.events, jobs.watch]
    for call in calls:
        with pytest.raises(NoSuchJob, match="there is no job"):
            call(job.id, BERT)
    with pytest.raises(NoSuchJob):
        jobs.move(job.id, BERT, before=None)
    with pytest.raises(NoSuchJob):
        jobs.set_priority(job.id, BERT, 0)
    assert jobs.list(BERT).total == 0
    assert jobs.queue(BERT) == ()
    assert (jobs.count(ANNA), jobs.count(BERT)) == (1, 0)
    assert jobs.get(job.id, LOCAL).owner == "anna"
    (done,) = finish(jobs)
    for call in calls:
        with pytest.raises(NoSuchJob):
            call(job.id, BERT)
    sha256 = done.pictures[0].sha256
    assert jobs.find_picture(sha256, BERT) is None
    assert jobs.find_picture(sha256, ANNA) == jobs.find_picture(sha256, LOCAL) == done.pictures[0]


@pytest.mark.parametrize("job_id", ["", "none", "\0", "\ud800", "a" * 10_000, "' OR 1=1 --", "../x"])
def test_an_id_that_is_none_is_no_such_job(jobs: Jobs, job_id: str) -> None:
    for call in (jobs.get, jobs.cancel, jobs.delete, jobs.watch):
        with pytest.raises(NoSuchJob):
            call(job_id, LOCAL)
    with pytest.raises(NoSuchJob):
        jobs.wait(job_id, 0)
    assert jobs.ahead(job_id) == (0, 0.0)
    assert not jobs.watched(job_id)
    jobs.progress(job_id, Progress())
    jobs.preview(job_id, 0, b"")
    jobs.done(job_id)


def test_a_full_queue_says_when_to_come_again(tmp_path: Path) -> None:
    with opened(tmp_path, queue_limit=3) as jobs:
        for _ in range(3):
            submitted(jobs, idempotency_key=str(jobs.count(LOCAL)))
        with pytest.raises(QueueFull, match="3 jobs wait already; try again in 5 s") as caught:
            submitted(jobs)
        assert caught.value.retry_after == 5
        assert submitted(jobs, idempotency_key="1").id in ids(jobs.queue(LOCAL))  # a repeated one needs no room
        finish(jobs)
        submitted(jobs)
        with pytest.raises(QueueFull) as caught:
            submitted(jobs)
        assert 1 <= caught.value.retry_after <= 60


def test_a_key_has_its_own_limit(jobs: Jobs) -> None:
    _, secret = jobs._store.keys.add("Anna", limits=Limits(jobs=2))
    anna = jobs._store.keys.check(secret)
    assert anna is not None
    for _ in range(2):
        submitted(jobs, caller=anna)
    jobs.next_batch("one", 1)
    with pytest.raises(QueueFull, match="your key has 2 jobs that wait or run; try again in 5 s"):
        submitted(jobs, caller=anna)
    submitted(jobs, caller=BERT)
    jobs.cancel_all(anna)
    submitted(jobs, caller=anna)


def test_the_limit_holds_under_many_threads(tmp_path: Path) -> None:
    with opened(tmp_path, queue_limit=10) as jobs:
        outcomes: Counter[str] = Counter()

        def ask() -> None:
            for _ in range(4):
                try:
                    submitted(jobs)
                    outcomes["in"] += 1
                except QueueFull:
                    outcomes["full"] += 1

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert outcomes == {"in": 10, "full": 22}
        assert jobs.list(LOCAL).total == 10


def test_an_idempotency_key_gives_the_first_job(jobs: Jobs) -> None:
    first = submitted(jobs, caller=ANNA, idempotency_key="k-1")
    assert submitted(jobs, caller=ANNA, idempotency_key="k-1").id == first.id
    assert submitted(jobs, caller=BERT, idempotency_key="k-1").id != first.id
    with pytest.raises(IdempotencyConflict, match="'k-1' was used before for other work"):
        submitted(jobs, "a cat", ANNA, idempotency_key="k-1")
    finish(jobs)
    again = submitted(jobs, caller=ANNA, idempotency_key="k-1")
    assert (again.id, again.state) == (first.id, JobState.DONE)
    asked = painted(seed=None)  # type: ignore[arg-type]
    one = jobs.submit(painted(seed=1), ANNA, source="v1", idempotency_key="k-2", asked=asked)
    assert jobs.submit(painted(seed=2), ANNA, source="v1", idempotency_key="k-2", asked=asked).id == one.id
    jobs.delete(first.id, ANNA)
    assert submitted(jobs, "a cat", ANNA, idempotency_key="k-1").id != first.id
    for key in ("", "a b", "ü", "x" * 256, "a\0"):
        with pytest.raises(RequestError, match="an idempotency key is 1 to 255 visible"):
            submitted(jobs, idempotency_key=key)


def test_an_idempotency_key_of_many_threads_makes_one_job(jobs: Jobs) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(submitted(jobs, idempotency_key="one").id)) for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    assert len(set(found)) == 1
    assert jobs.list(LOCAL).total == 1


def test_a_client_may_choose_an_id_once(jobs: Jobs) -> None:
    assert submitted(jobs, job_id="task-1.a_B").id == "task-1.a_B"
    with pytest.raises(IdempotencyConflict, match=r"there is a job 'task-1\.a_B' already"):
        submitted(jobs, job_id="task-1.a_B")
    assert jobs.count(LOCAL) == 1
    for job_id in ("", "a/b", "ü", "x" * 65, "a\n"):
        with pytest.raises(RequestError, match="does not fit"):
            submitted(jobs, job_id=job_id)


def test_priorities_above_zero_are_an_administrators(jobs: Jobs) -> None:
    low, high = submitted(jobs, caller=ANNA, priority=-5), submitted(jobs, priority=3)
    with pytest.raises(NotAllowed):
        submitted(jobs, caller=ANNA, priority=1)
    with pytest.raises(NotAllowed):
        jobs.set_priority(low.id, ANNA, 1)
    with pytest.raises(RequestError, match="-100 to 100"):
        submitted(jobs, priority=101)
    assert ids(jobs.queue(LOCAL)) == [high.id, low.id]
    assert jobs.set_priority(low.id, LOCAL, 4).position == 0


def test_cancel_while_it_waits_is_at_once(jobs: Jobs) -> None:
    first, second = submitted(jobs), submitted(jobs)
    heard: list[str] = []
    jobs.on_cancel(lambda job_id, keep: heard.append(job_id))
    cancelled = jobs.cancel(first.id, LOCAL)
    assert (cancelled.state, cancelled.position) == (JobState.CANCELLED, None)
    assert jobs.get(second.id, LOCAL).position == 0
    assert jobs.cancel(first.id, LOCAL) == cancelled
    assert heard == []
    assert ids(jobs.next_batch("one", 10)) == [second.id]


def test_cancel_while_it_runs_asks_the_worker(jobs: Jobs) -> None:
    heard: list[tuple[str, bool]] = []
    jobs.on_cancel(lambda job_id, keep: heard.append((job_id, keep)))
    job = submitted(jobs)
    jobs.next_batch("one", 1)
    assert jobs.cancel(job.id, LOCAL, keep_partial=True).state is JobState.RUNNING
    assert heard == [(job.id, True)]
    partial = stored(role="partial")
    jobs.picture(job.id, partial)
    jobs.cancelled(job.id)
    ended = jobs.get(job.id, LOCAL)
    assert (ended.state, ended.pictures) == (JobState.CANCELLED, (partial,))
    jobs.done(job.id)  # too late
    jobs.failed(job.id, Problem(kind="work", message="x"))
    assert jobs.get(job.id, LOCAL) == ended


def test_a_job_that_was_finished_before_the_cancel_came_is_done(jobs: Jobs) -> None:
    job = submitted(jobs)
    jobs.next_batch("one", 1)
    jobs.cancel(job.id, LOCAL)
    jobs.done(job.id)
    jobs.cancelled(job.id)
    assert jobs.get(job.id, LOCAL).state is JobState.DONE


def test_cancel_all_is_the_callers_own(jobs: Jobs) -> None:
    runs = submitted(jobs, caller=ANNA)
    jobs.next_batch("one", 1)
    waits, other = submitted(jobs, caller=ANNA), submitted(jobs, caller=BERT)
    with pytest.raises(NotAllowed):
        jobs.cancel_all(ANNA, everyone=True)
    found = {job.id: job.state for job in jobs.cancel_all(ANNA)}
    assert found == {runs.id: JobState.RUNNING, waits.id: JobState.CANCELLED}
    assert ids(jobs.queue(LOCAL)) == [other.id]
    assert list(jobs.cancel_all(LOCAL)) == []
    assert len(jobs.cancel_all(LOCAL, everyone=True)) == 2


def test_a_failed_job_says_why(tmp_path: Path) -> None:
    problem = Problem(kind="work", message="not a number")
    with opened(tmp_path) as jobs:
        job = submitted(jobs)
        jobs.next_batch("one", 1)
        jobs.failed(job.id, problem)
        assert jobs.get(job.id, LOCAL).problem == problem
    with opened(tmp_path) as jobs:
        assert jobs.get(job.id, LOCAL).problem == problem
        assert jobs.get(job.id, LOCAL).state is JobState.FAILED


def test_pause_outlives_a_restart(tmp_path: Path) -> None:
    calls: list[int] = []
    with opened(tmp_path) as jobs:
        submitted(jobs)
        assert not jobs.paused
        jobs.pause()
        assert jobs.next_batch("one", 1) == []
    with opened(tmp_path) as jobs:
        assert jobs.paused
        assert jobs.stats().paused
        jobs.on_queued(lambda: calls.append(1))
        jobs.resume()
        assert calls == [1]
        assert len(jobs.next_batch("one", 1)) == 1
    with opened(tmp_path) as jobs:
        assert not jobs.paused


def test_compatible_jobs_are_one_batch(jobs: Jobs) -> None:
    wanted = [jobs.submit(painted("a", seed=1, steps=4), LOCAL, source="v1")]
    other = jobs.submit(painted("a", steps=5), LOCAL, source="v1")
    wanted.append(jobs.submit(painted("b", seed=9, count=2, steps=4), LOCAL, source="v1"))
    large = jobs.submit(painted("c", count=3, steps=4), LOCAL, source="v1")
    wanted.append(jobs.submit(painted("d", steps=4), LOCAL, source="v1"))
    assert ids(jobs.next_batch("one", 4)) == ids(wanted)
    assert ids(jobs.next_batch("one", 4)) == [other.id]
    assert ids(jobs.next_batch("one", 2)) == [large.id]  # more than the worker likes, but alone
    assert jobs.next_batch("one", 4) == []


def test_a_worker_may_refuse_what_it_cannot_do(jobs: Jobs) -> None:
    first = submitted(jobs, "a cat")
    second = submitted(jobs, "a fox")

    def foxes(job: Job) -> bool:
        return isinstance(job.work, Generate) and job.work.request.prompt == "a fox"

    assert ids(jobs.next_batch("one", 4, foxes)) == [second.id]
    assert jobs.next_batch("one", 4, foxes) == []
    assert ids(jobs.next_batch("one", 4)) == [first.id]


def test_a_workers_death_gives_its_jobs_back_alone_and_three_are_too_many(jobs: Jobs) -> None:
    bad, good = submitted(jobs, "bad"), submitted(jobs, "good")
    later = submitted(jobs, "later")
    assert len(jobs.next_batch("one", 2)) == 2
    jobs.picture(good.id, stored())
    jobs.requeue([bad.id, good.id, later.id, "none"], "two")  # not its jobs
    assert jobs.get(bad.id, LOCAL).state is JobState.RUNNING
    jobs.requeue([bad.id, good.id, later.id, "none"], "one")
    assert ids(jobs.queue(LOCAL)) == [bad.id, good.id, later.id]
    assert jobs.get(good.id, LOCAL).pictures == ()
    for attempt in (2, 3):
        (alone,) = jobs.next_batch("one", 16)
        assert (alone.id, alone.attempts) == (bad.id, attempt)
        jobs.requeue([bad.id], "one")
    failed = jobs.get(bad.id, LOCAL)
    assert (failed.state, failed.problem and failed.problem.kind) == (JobState.FAILED, "crash")
    assert ids(finish(jobs, most=16)) == [good.id]
    assert ids(finish(jobs, most=16)) == [later.id]


def test_a_worker_that_is_told_to_end_costs_no_attempt(jobs: Jobs) -> None:
    job = submitted(jobs)
    for _ in range(5):
        jobs.next_batch("one", 1)
        jobs.requeue([job.id], "one", crashed=False)
    assert (jobs.get(job.id, LOCAL).state, jobs.get(job.id, LOCAL).attempts) == (JobState.QUEUED, 0)
    jobs.next_batch("one", 1)
    jobs.cancel(job.id, LOCAL)
    jobs.requeue([job.id], "one", crashed=False)
    assert jobs.get(job.id, LOCAL).state is JobState.CANCELLED


def test_a_restart_puts_what_ran_in_its_old_place(tmp_path: Path) -> None:
    with opened(tmp_path) as jobs:
        first, second = submitted(jobs, "1"), submitted(jobs, "2")
        third, stops = submitted(jobs, "3"), submitted(jobs, "4", priority=9)
        jobs.next_batch("one", 1)
        jobs.cancel(stops.id, LOCAL)
        jobs.next_batch("one", 1)
        jobs.set_priority(third.id, LOCAL, 2)
    for attempts in (1, 1):
        with opened(tmp_path) as jobs:
            assert ids(jobs.queue(LOCAL)) == [third.id, first.id, second.id]
            assert [job.attempts for job in jobs.queue(LOCAL)] == [0, attempts, 0]
            assert jobs.get(stops.id, LOCAL).state is JobState.CANCELLED
            assert jobs.recover() == 0
            assert submitted(jobs).position == 3
            jobs.cancel(jobs.queue(LOCAL)[-1].id, LOCAL)


def test_done_all_is_one_transaction(jobs: Jobs) -> None:
    batch = [submitted(jobs, str(number)) for number in range(4)]
    ended: list[Job] = []
    jobs.on_ended(ended.append)
    jobs.next_batch("one", 16)
    for job in batch:
        jobs.picture(job.id, stored(job.id.replace("-", "").ljust(64, "0")))
    begins: list[int] = []
    write = jobs._database.write
    jobs._database.write = lambda: (begins.append(1), write())[1]  # type: ignore[method-assign]
    jobs.done_all([Finished(job_id=job.id, notes=["x"]) for job in batch])
    assert len(begins) == 1
    assert ids(ended) == ids(batch)
    assert all(len(jobs.get(job.id, LOCAL).pictures) == 1 for job in batch)


def test_lists_are_filtered(jobs: Jobs) -> None:
    fox = jobs.submit(painted("A Fox, 100% grün_ÄÖ", model="tiny"), ANNA, source="v1")
    cat = jobs.submit(painted(("a cat", "a dog")), BERT, source="studio")  # type: ignore[arg-type]
    seen = jobs.submit(Describe(image=InputPicture(path=None, sha256="ab" * 32)), LOCAL, source="openai")
    finish(jobs, stored(request={"model": "embedded"}), most=1)

    def found(caller: object = LOCAL, **fields: object) -> list[str]:
        return ids(jobs.list(caller, JobFilter(**fields)).jobs)  # type: ignore[arg-type]

    assert found() == [seen.id, cat.id, fox.id]
    assert found(ANNA) == [fox.id]
    assert found(owner="bert") == [cat.id]
    assert found(ANNA, owner="bert") == []
    assert found(states=["done"]) == found(states={JobState.DONE}) == [fox.id]
    assert found(states=("queued", "running")) == [seen.id, cat.id]
    assert found(sources=["studio", "openai"]) == [seen.id, cat.id]
    assert found(kinds=["describe"]) == [seen.id]
    assert found(model="tiny") == [fox.id]
    assert found(text="fox") == found(text="100%") == found(text="GRÜN_äö") == [fox.id]
    assert found(text="DOG") == [cat.id]
    assert found(text="1000") == found(text="f_x") == found(text="%")[1:] == []
    assert found(text="\0\ud800fox") == [fox.id]
    assert found(since=cat.created) == [seen.id, cat.id]
    assert found(until=cat.created) == [fox.id]
    assert found(until=datetime.now() + timedelta(days=2)) == found()
    assert found(since=datetime.max.replace(tzinfo=UTC)) == []
    assert jobs.list(LOCAL).jobs[1].position == 0
    finish(jobs, stored(request={"model": "embedded"}), most=1)
    assert found(model="embedded") == [cat.id]  # the model's name is known by its pictures
    with pytest.raises(RequestError, match="1000 or fewer"):
        found(text="x" * 1001)


@pytest.mark.parametrize("newest_first", [True, False])
def test_pages_hold_each_job_once_also_when_more_come(tmp_path: Path, newest_first: bool) -> None:
    with opened(tmp_path) as jobs:
        wanted = ids(submitted(jobs, str(number)) for number in range(11))
        seen: list[str] = []
        cursor = None
        while True:
            page = jobs.list(LOCAL, limit=3, cursor=cursor, newest_first=newest_first)
            seen += ids(page.jobs)
            cursor = page.next_cursor
            if newest_first:
                submitted(jobs, "one more")
            if cursor is None:
                break
        assert seen == (wanted[::-1] if newest_first else wanted)
        assert jobs.list(LOCAL, JobFilter(text="one more"), limit=1).total == (4 if newest_first else 0)
        assert jobs.list(LOCAL, limit=500).next_cursor is None


@pytest.mark.parametrize("cursor", ["", "x", "!!!", "MTIz", "LTE6YQ", "ü", "A" * 4000, "MTowMAA="])
def test_a_wrong_cursor_is_a_sentence(jobs: Jobs, cursor: str) -> None:
    with pytest.raises(RequestError, match="none that an earlier page gave"):
        jobs.list(LOCAL, cursor=cursor)


def test_a_page_has_bounds(jobs: Jobs) -> None:
    for limit in (0, -1, 501):
        with pytest.raises(RequestError, match="1 to 500"):
            jobs.list(LOCAL, limit=limit)


def test_delete_takes_the_pictures_that_no_other_job_has(tmp_path: Path) -> None:
    with opened(tmp_path) as jobs:
        files = jobs._store.pictures
        shared, own = file_of(files, 1), file_of(files, 2)
        one, two = submitted(jobs), submitted(jobs)
        finish(jobs, shared, stored(own.sha256, index=1))
        finish(jobs, shared)
        with pytest.raises(NoSuchJob):
            jobs.delete(one.id, ANNA)
        jobs.delete(one.id, LOCAL)
        assert files.path(own.sha256) is None
        assert files.path(shared.sha256) is not None
        with pytest.raises(NoSuchJob):
            jobs.get(one.id, LOCAL)
        assert jobs.find_picture(own.sha256, LOCAL) is None
        jobs.delete(two.id, LOCAL)
        assert list(files.all()) == []


def test_delete_of_what_waits_and_what_runs(jobs: Jobs) -> None:
    runs, waits = submitted(jobs), submitted(jobs)
    jobs.next_batch("one", 1)
    with pytest.raises(WrongState, match="is running; cancel it first"):
        jobs.delete(runs.id, LOCAL)
    feed = jobs.watch(waits.id, LOCAL)
    jobs.delete(waits.id, LOCAL)
    assert [event.data["state"] for event in feed][-1] == "cancelled"
    assert jobs.queue(LOCAL) == ()
    assert jobs.list(LOCAL).total == 1


def test_a_picture_that_a_running_job_painted_again_stays(tmp_path: Path) -> None:
    with opened(tmp_path) as jobs:
        files = jobs._store.pictures
        picture = file_of(files, 1)
        old, again = submitted(jobs), submitted(jobs)
        finish(jobs, picture)
        os.utime(files.path(picture.sha256) or "", (0, 0))
        jobs.next_batch("one", 1)
        file_of(files, 1)  # the worker writes the same file, and has not told yet
        jobs.delete(old.id, LOCAL)
        jobs.picture(again.id, picture)
        jobs.done(again.id)
        assert files.path(picture.sha256) is not None


def test_inputs_are_kept_as_long_as_a_job_needs_them(tmp_path: Path) -> None:
    with opened(tmp_path) as jobs:
        inputs = jobs._store.inputs
        given, stray = (inputs.put(Image.new("L", (4, 4), grey)) for grey in (1, 2))
        one, two = (jobs.submit(Describe(image=given), LOCAL, source="v1") for _ in range(2))
        for picture in (given, stray):
            os.utime(inputs.path(picture.sha256 or "") or "", (0, 0))
        jobs.retain()
        assert inputs.path(given.sha256 or "")
        assert not inputs.path(stray.sha256 or "")
        jobs.delete(one.id, LOCAL)
        assert inputs.path(given.sha256 or "")
        jobs.delete(two.id, LOCAL)
        assert not inputs.path(given.sha256 or "")


def test_what_nobody_names_is_swept_after_a_day_and_its_second_name_with_it(tmp_path: Path) -> None:
    with opened(tmp_path) as jobs:
        files, inputs = jobs._store.pictures, jobs._store.inputs
        kept, stray, fresh = (file_of(files, grey) for grey in (1, 2, 3))
        submitted(jobs)
        finish(jobs, kept)
        pixels = files.pixels(kept.sha256)
        assert pixels is not None
        for picture in (kept, stray):
            os.utime(files.path(picture.sha256) or "", (0, 0))
        jobs.retain()
        assert {name for name, _ in files.all()} == {kept.sha256, fresh.sha256}
        assert inputs.has(pixels)
        assert len(list(inputs.all())) == 2


def test_retention_by_days(tmp_path: Path) -> None:
    with opened(tmp_path, retention_days=1) as jobs:
        old, new, waits = submitted(jobs), submitted(jobs), submitted(jobs)
        finish(jobs)
        finish(jobs)
        from wordbrush.serving.store.tables import JOBS

        with jobs._database.write() as connection:
            change = JOBS.update().where(JOBS.c.id.in_([old.id, waits.id]))
            connection.execute(change.values(created=1, finished=None))
            connection.execute(JOBS.update().where(JOBS.c.id == old.id).values(finished=1))
        assert jobs.retain() == 1
        assert set(ids(jobs.list(LOCAL).jobs)) == {new.id, waits.id}
        assert jobs.retain() == 0


def test_retention_by_bytes_takes_the_oldest(tmp_path: Path) -> None:
    with opened(tmp_path, retention_bytes=250) as jobs:
        made = [submitted(jobs, str(number)) for number in range(4)]
        for _ in made:
            finish(jobs)
        assert jobs.retain() == 2
        assert ids(jobs.list(LOCAL, newest_first=False).jobs) == ids(made[2:])


def test_nobody_waits_while_the_pictures_of_old_jobs_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path, retention_bytes=1) as jobs:
        files = jobs._store.pictures
        pixels, kept = files.pixels, file_of(files, 1)
        submitted(jobs)
        finish(jobs, kept)
        second, asked = pixels(kept.sha256), list[Job]()
        os.utime(files.path(kept.sha256) or "", (0, 0))  # its second name is as old

        def read(sha256: str) -> str | None:
            thread = threading.Thread(target=lambda: asked.append(submitted(jobs)))
            thread.start()
            thread.join(10)
            assert len(asked) == 1
            return pixels(sha256)

        monkeypatch.setattr(files, "pixels", read)
        assert jobs.retain() == 1
        assert second is not None
        assert files.path(kept.sha256) is None
        assert not jobs._store.inputs.has(second)


def test_numbers(jobs: Jobs) -> None:
    assert jobs.stats().by_state == {"queued": 0, "running": 0, "done": 0, "failed": 0, "cancelled": 0}
    for _ in range(4):
        jobs.submit(painted(count=2), LOCAL, source="v1")
    assert jobs.ahead(jobs.queue(LOCAL)[2].id) == (2, None)
    finish(jobs)
    jobs.next_batch("one", 1)
    stats = jobs.stats()
    assert (stats.queued, stats.running, stats.pictures_waiting) == (2, 1, 4)
    assert stats.by_source == {("queued", "v1"): 2, ("running", "v1"): 1, ("done", "v1"): 1}
    assert stats.pictures_per_second > 0
    waiting = jobs.queue(LOCAL)[1]
    ahead, seconds = jobs.ahead(waiting.id)
    assert ahead == 1
    assert seconds is not None
    assert seconds > 0


def test_nothing_is_handed_out_after_close(tmp_path: Path) -> None:
    store = Store(settings_of(tmp_path))
    jobs = Jobs(store)
    job = submitted(jobs)
    jobs.close()
    assert jobs.next_batch("one", 1) == []
    assert jobs.wait(job.id).state is JobState.QUEUED
    assert [event.type for event in jobs.watch(job.id, LOCAL)] == ["state"]
    store.close()
