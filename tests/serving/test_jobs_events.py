"""What subscribers of a job hear: in order, from any moment on, after a break, in threads and coroutines."""

from __future__ import annotations

import asyncio
import base64
import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.serving.queues import KINDS, finish, on, opened, stored, submitted

from wordbrush.serving.store import Jobs, NoSuchJob, job_json
from wordbrush.serving.store.channel import RING
from wordbrush.serving.work import LOCAL, Event, Job, JobState, Progress


@pytest.fixture(params=KINDS, autouse=True)
def database(request: pytest.FixtureRequest) -> Iterator[None]:
    with on(request.param):
        yield


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    with opened(tmp_path) as found:
        yield found


def paint(jobs: Jobs, steps: int = 3) -> None:
    """A worker that does one batch, telling everything."""
    for job in jobs.next_batch("one", 16):
        for step in range(1, steps + 1):
            jobs.progress(job.id, Progress(step=step, steps=steps))
        jobs.preview(job.id, 0, b"jpeg")
        jobs.picture(job.id, stored())
        jobs.done(job.id)


def kinds(events: list[Event]) -> list[str]:
    return [str(event.data["state"]) if event.type == "state" else event.type for event in events]


WHOLE = ["queued", "running", "progress", "progress", "progress", "preview", "picture", "done"]


def test_a_coroutine_hears_everything_in_order(jobs: Jobs) -> None:
    job = submitted(jobs)

    async def listen() -> list[Event]:
        feed = jobs.events(job.id, LOCAL)
        first = await anext(feed)
        thread = threading.Thread(target=paint, args=(jobs,))
        thread.start()
        heard = [first] + [event async for event in feed]
        thread.join()
        return heard

    heard = asyncio.run(listen())
    assert kinds(heard) == WHOLE
    assert [event.id for event in heard] == sorted({event.id for event in heard})
    assert heard[0].data["position"] == 0
    assert heard[3].data == {
        "step": 2, "steps": 3, "picture": 0, "pictures": 1, "eta": None, "phase": "painting", "fraction": 2 / 3
    }  # fmt: skip
    assert heard[5].data == {"index": 0, "mime": "image/jpeg", "data": base64.b64encode(b"jpeg").decode()}
    assert heard[6].data["sha256"] == stored().sha256
    assert heard[-1].data == job_json(jobs.get(job.id, LOCAL))
    assert not jobs.watched(job.id)


def test_a_thread_hears_the_same(jobs: Jobs) -> None:
    job = submitted(jobs)
    feed = jobs.watch(job.id, LOCAL, timeout=20)
    heard = [next(feed)]
    thread = threading.Thread(target=paint, args=(jobs,))
    thread.start()
    heard += list(feed)
    thread.join()
    assert kinds(heard) == WHOLE


def test_a_thread_gives_up_when_nothing_happens(jobs: Jobs) -> None:
    job = submitted(jobs)
    assert kinds(list(jobs.watch(job.id, LOCAL, timeout=0.05))) == ["queued"]
    assert not jobs.watched(job.id)


def test_a_late_subscriber_gets_the_state_first(jobs: Jobs) -> None:
    job = submitted(jobs)
    jobs.next_batch("one", 1)
    jobs.progress(job.id, Progress(step=5, steps=9))
    jobs.picture(job.id, stored())
    feed = jobs.watch(job.id, LOCAL)
    first = next(feed)
    assert first.type == "state"
    assert first.data["progress"]["step"] == 5
    assert len(first.data["pictures"]) == 1
    jobs.done(job.id)
    assert kinds(list(feed)) == ["done"]


@pytest.mark.parametrize("heard", range(len(WHOLE)))
def test_a_broken_connection_goes_on_where_it_was(jobs: Jobs, heard: int) -> None:
    """Whatever was heard before the break, the rest comes after it, exactly once, also once the job has ended."""
    job = submitted(jobs)
    other = jobs.watch(job.id, LOCAL)
    next(other)
    feed = jobs.watch(job.id, LOCAL)
    before = [next(feed)]
    (running,) = jobs.next_batch("one", 1)
    for step in (1, 2, 3):
        jobs.progress(job.id, Progress(step=step, steps=3))
    jobs.preview(job.id, 0, b"x")
    jobs.picture(job.id, stored())
    if heard == len(WHOLE) - 1:
        jobs.done(running.id)
    before += [next(feed) for _ in range(heard)]
    feed.close()
    again = jobs.watch(job.id, LOCAL, before[-1].id)
    if heard < len(WHOLE) - 1:
        jobs.done(running.id)
    after = list(again)
    assert kinds(before + after) == WHOLE
    assert list(jobs.watch(job.id, LOCAL, (before + after)[-1].id)) == []


def test_the_end_was_heard_or_not_also_after_a_restart(tmp_path: Path) -> None:
    with opened(tmp_path) as jobs:
        job, waits = submitted(jobs), submitted(jobs)
        feed, other = jobs.watch(job.id, LOCAL), jobs.watch(waits.id, LOCAL)
        finish(jobs)
        last = list(feed)[-1]
        place = next(other)
    time.sleep(0.002)
    with opened(tmp_path) as jobs:
        assert list(jobs.watch(job.id, LOCAL, last.id)) == []
        assert list(jobs.watch(job.id, LOCAL, last.id - 1)) == [last]
        assert list(jobs.watch(job.id, LOCAL)) == [last]
        finish(jobs)
        state = list(jobs.watch(waits.id, LOCAL, place.id))
        assert kinds(state) == ["done"]
        assert state[0].id > place.id


@pytest.mark.parametrize("last", [0, -5, 1, 10**30])
def test_an_event_id_that_never_was_gives_the_state(jobs: Jobs, last: int) -> None:
    job = submitted(jobs)
    feed = jobs.watch(job.id, LOCAL, last)
    assert kinds([next(feed)]) == ["queued"]
    finish(jobs)
    assert kinds(list(feed)) == ["running", "picture", "done"]
    assert kinds(list(jobs.watch(job.id, LOCAL, last))) == ["done"]


def test_a_slow_subscriber_gets_the_state_when_too_much_happened(jobs: Jobs) -> None:
    job = submitted(jobs)
    feed = jobs.watch(job.id, LOCAL)
    first = next(feed)
    jobs.next_batch("one", 1)
    for step in range(RING + 10):
        jobs.progress(job.id, Progress(step=step, steps=1000))
    caught_up = next(feed)
    assert (caught_up.type, caught_up.data["progress"]["step"]) == ("state", RING + 9)
    assert kinds([next(jobs.watch(job.id, LOCAL, first.id))]) == ["running"]
    jobs.progress(job.id, Progress(step=999, steps=1000))
    assert next(feed).data["step"] == 999


def test_only_the_newest_preview_of_a_picture_is_kept(jobs: Jobs) -> None:
    job = submitted(jobs)
    feed = jobs.watch(job.id, LOCAL)
    next(feed)
    jobs.next_batch("one", 1)
    for number in range(100):
        jobs.preview(job.id, number % 2, bytes([number]) * 1000)
    jobs.done(job.id)
    heard = [event for event in feed if event.type == "preview"]
    assert [(event.data["index"], base64.b64decode(event.data["data"])[0]) for event in heard] == [(0, 98), (1, 99)]


def test_positions_are_told_when_the_queue_moves(jobs: Jobs) -> None:
    made = [submitted(jobs, str(number), priority=0) for number in range(4)]
    feed = jobs.watch(made[3].id, LOCAL)
    assert next(feed).data["position"] == 3
    finish(jobs)
    heard = next(feed)
    assert (heard.type, heard.data["position"]) == ("position", 2)
    assert heard.data["eta"] is None or heard.data["eta"] >= 0
    jobs.cancel(made[1].id, LOCAL)
    assert next(feed).data["position"] == 1
    submitted(jobs, "first", priority=5)
    assert next(feed).data["position"] == 2
    jobs.move(made[3].id, LOCAL, before=jobs.queue(LOCAL)[0].id)
    assert next(feed).data["position"] == 0
    submitted(jobs, "last")
    finish(jobs)
    assert kinds(list(feed)) == ["running", "picture", "done"]


def test_a_subscriber_that_was_away_while_the_queue_moved_hears_its_place(jobs: Jobs) -> None:
    first, second = submitted(jobs, "1"), submitted(jobs, "2")
    feed = jobs.watch(second.id, LOCAL)
    heard = next(feed)
    feed.close()
    jobs.cancel(first.id, LOCAL)
    again = next(jobs.watch(second.id, LOCAL, heard.id))
    assert (again.type, again.data["position"]) == ("position", 0)


def test_a_requeued_job_tells_that_it_waits_again(jobs: Jobs) -> None:
    job = submitted(jobs)
    feed = jobs.watch(job.id, LOCAL)
    next(feed)
    jobs.next_batch("one", 1)
    jobs.picture(job.id, stored())
    jobs.requeue([job.id], "one")
    finish(jobs)
    heard = list(feed)
    assert kinds(heard) == ["running", "picture", "queued", "running", "picture", "done"]
    assert heard[2].data["pictures"] == []


def test_watched_says_whether_previews_pay(jobs: Jobs) -> None:
    job = submitted(jobs)
    assert not jobs.watched(job.id)
    feed = jobs.watch(job.id, LOCAL)
    assert jobs.watched(job.id)
    feed.close()
    assert not jobs.watched(job.id)
    forgotten = jobs.watch(job.id, LOCAL)
    next(forgotten)
    del forgotten  # a consumer that broke out of its loop
    gc.collect()
    assert not jobs.watched(job.id)


def test_waiting_for_an_event_may_be_broken_off_and_nothing_is_lost(jobs: Jobs) -> None:
    """As a server does that sends a heartbeat every few seconds."""
    job = submitted(jobs)

    async def listen() -> list[Event]:
        feed = await asyncio.to_thread(jobs.events, job.id, LOCAL)  # made in a thread, read in a coroutine
        heard, beats = [await anext(feed)], 0
        while True:
            try:
                heard.append(await asyncio.wait_for(anext(feed), 0.02))
            except TimeoutError:
                beats += 1
                if beats == 2:
                    threading.Thread(target=paint, args=(jobs,)).start()
            except StopAsyncIteration:
                break
        assert beats >= 2
        return heard

    assert kinds(asyncio.run(listen())) == WHOLE


def test_many_subscribers_of_many_jobs_in_both_worlds(tmp_path: Path) -> None:
    with opened(tmp_path) as jobs:
        made = [submitted(jobs, str(number)) for number in range(40)]
        heard: dict[str, list[str]] = {}

        def watch(job: Job) -> None:
            heard[f"thread {job.id}"] = kinds(list(jobs.watch(job.id, LOCAL, timeout=30)))

        async def listen(job: Job) -> None:
            heard[f"task {job.id}"] = kinds([event async for event in jobs.events(job.id, LOCAL)])

        async def all_of_them() -> None:
            worker = threading.Timer(0.1, lambda: [paint(jobs) for _ in range(4)])
            worker.start()
            await asyncio.gather(*(listen(job) for job in made))

        threads = [threading.Thread(target=watch, args=(job,)) for job in made]
        for thread in threads:
            thread.start()
        asyncio.run(all_of_them())
        for thread in threads:
            thread.join()
        assert len(heard) == 80
        for events in heard.values():
            told = [kind for kind in events if kind != "position"]
            assert told[-1] == "done"
            assert told[0] != "queued" or told == WHOLE


def test_a_loop_that_has_ended_hinders_nobody(jobs: Jobs) -> None:
    job = submitted(jobs)
    feed = jobs.events(job.id, LOCAL)

    async def begin() -> None:
        await anext(feed)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(feed), 0.01)

    asyncio.run(begin())
    assert jobs.watched(job.id)
    finish(jobs)
    assert jobs.get(job.id, LOCAL).state is JobState.DONE


def test_waiting_for_the_end(jobs: Jobs) -> None:
    job = submitted(jobs)
    begun = time.monotonic()
    assert jobs.wait(job.id, 0.05).state is JobState.QUEUED
    assert time.monotonic() - begun < 5
    assert asyncio.run(jobs.wait_async(job.id, 0.01)).state is JobState.QUEUED
    timer = threading.Timer(0.05, finish, (jobs,))
    timer.start()

    async def both() -> list[Job]:
        return await asyncio.gather(
            jobs.wait_async(job.id, 20), jobs.wait_async(job.id), asyncio.to_thread(jobs.wait, job.id, 20)
        )

    found = asyncio.run(both())
    assert {one.state for one in found} == {JobState.DONE}
    assert all(one == jobs.get(job.id, LOCAL) for one in found)
    assert jobs.wait(job.id) == asyncio.run(jobs.wait_async(job.id)) == found[0]
    with pytest.raises(NoSuchJob):
        asyncio.run(jobs.wait_async("none", 1))


def test_a_server_that_ends_lets_everyone_go(jobs: Jobs) -> None:
    job = submitted(jobs)

    async def listen() -> list[Event]:
        return [event async for event in jobs.events(job.id, LOCAL)]

    async def both() -> tuple[list[Event], Job, Job]:
        threading.Timer(0.05, jobs.close).start()
        return await asyncio.gather(listen(), jobs.wait_async(job.id), asyncio.to_thread(jobs.wait, job.id))

    heard, one, two = asyncio.run(both())
    assert kinds(heard) == ["queued"]
    assert one.state is two.state is JobState.QUEUED
