"""The jobs that wait or run, in memory: their order, their progress, and who listens.

One server is the only writer of its database (`Database` locks it), so this mirror of the jobs that have not ended is
never out of date; it is changed after each transaction that succeeded. `lock` is held for microseconds only, never
during a transaction, so that the event loop may take it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterable
from typing import Any

from wordbrush.serving.store.channel import Channel, Feed, Follower
from wordbrush.serving.store.queue import Order, Pace
from wordbrush.serving.store.records import Live, job_json, now_us
from wordbrush.serving.work import Event, Job, JobState


class Board:
    """What is going on."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.live: dict[str, Live] = {}
        self.order = Order()
        self.pace = Pace()
        self.closed = False
        self.running = 0
        self._last_rank = 0

    def next_rank(self) -> int:
        """A rank behind all that were given: microseconds since 1970."""
        self._last_rank = max(self._last_rank + 1, now_us())
        return self._last_rank

    def snapshot(self, live: Live) -> Job:
        """A job as it is now."""
        with self.lock:
            return live.job(self.order.position(live) if live in self.order else None)

    def queue(self, live: Live) -> None:
        """A job waits from now on: a new one, or one that goes back."""
        with self.lock:
            if live.state is JobState.RUNNING:
                self._count_running(-1)
            live.state = JobState.QUEUED
            live.started, live.worker, live.progress = None, None, None
            live.pictures.clear()
            self._last_rank = max(self._last_rank, live.rank)
            self.live[live.id] = live
            self.order.add(live)
            self.tell(live)
            if self.order.position(live) < len(self.order) - 1:
                self.tell_positions()

    def start(self, jobs: Iterable[Live], worker: str, when: int) -> list[Job]:
        """Jobs run from now on."""
        with self.lock:
            jobs = tuple(jobs)
            for live in jobs:
                self.order.remove(live)
                live.state, live.started, live.worker = JobState.RUNNING, when, worker
                live.attempts += 1
                self._count_running(1)
                self.tell(live)
            self.tell_positions()
            return [self.snapshot(live) for live in jobs]

    def end(self, live: Live, state: JobState, when: int) -> Job:
        """A job has ended; what it is now was written before."""
        with self.lock:
            waited = live in self.order
            if waited:
                self.order.remove(live)
            if live.state is JobState.RUNNING:
                self._count_running(-1)
            live.state, live.finished, live.progress = state, when, None
            self.live.pop(live.id, None)
            if state is JobState.DONE:
                self.pace.finished(live.size)
            if live.channel is not None and live.last_event is not None:
                live.channel.last = live.last_event - 1
            self.tell(live)
            for waiter in live.waiters:
                waiter.wake()
            if waited:
                self.tell_positions()
            return self.snapshot(live)

    def _count_running(self, change: int) -> None:
        self.running += change
        self.pace.running(self.running)

    def reorder(self, slots: dict[str, tuple[int, int]]) -> None:
        """Gives waiting jobs other priorities and ranks."""
        with self.lock:
            jobs = [self.live[job_id] for job_id in slots]
            for live in jobs:
                self.order.remove(live)
            for live in jobs:
                live.priority, live.rank = slots[live.id]
                self.order.add(live)
            self.tell_positions()

    def tell(self, live: Live) -> None:
        """Its subscribers hear what state it is in."""
        if live.channel is not None:
            job = self.snapshot(live)
            live.told = job.position
            live.channel.publish("state", job_json(job))

    def publish(self, live: Live, kind: str, data: dict[str, Any]) -> None:
        """Its subscribers, if it ever had any, hear something."""
        if live.channel is not None:
            live.channel.publish(kind, data)

    def tell_positions(self) -> None:
        """After the queue moved, every subscriber of a job that waits hears its place; one pass over the queue."""
        rate = self.pace.per_second()
        before = self._left()
        for position, live in enumerate(self.order):
            if live.channel is not None and live.told != position and live.channel.followers:
                live.told = position
                eta = None if rate is None else round(before / rate, 1)
                live.channel.publish("position", {"position": position, "eta": eta})
            before += live.size

    def ahead(self, live: Live) -> tuple[int, float | None]:
        """How many jobs are before a waiting one, and in how many seconds it begins; a running one's seconds left."""
        with self.lock:
            if live not in self.order:
                return 0, 0.0 if live.state.ended else live.progress.eta if live.progress else None
            position, rate = self.order.position(live), self.pace.per_second()
            before = self._left()
            for place, other in enumerate(self.order):
                if place == position:
                    break
                before += other.size
            return position, None if rate is None else before / rate

    def _left(self) -> float:
        """Pictures that are still to be painted of the running jobs."""
        if not self.running:
            return 0.0
        running = (live for live in self.live.values() if live.state is JobState.RUNNING)
        return sum(live.size * (1 - (live.progress.fraction if live.progress else 0)) for live in running)

    def feed(self, live: Live, last: int | None, timeout: float | None = None) -> Feed:
        """Subscribes to a job, from after event `last` on, or from its state now."""
        follower = Follower()
        with self.lock:
            if live.channel is None:
                live.channel = Channel()
                live.told = self.order.position(live) if live in self.order else None
            channel = live.channel
            channel.followers.add(follower)
            if last is not None:
                self.tell_positions()  # which nobody may have heard of since the connection broke
        seen: list[int | None] = [last]

        def read() -> tuple[list[Event], bool]:
            with self.lock:
                events = None if seen[0] is None else channel.since(seen[0])
                if events is None:
                    events = [Event(id=channel.last, type="state", data=job_json(self.snapshot(live)))]
                seen[0] = channel.last
                return events, live.state.ended or self.closed

        return Feed(follower, read, lambda: channel.followers.discard(follower), timeout)

    def wait(self, live: Live, timeout: float | None) -> Job:
        """Blocks the thread until a job has ended, the time (seconds) ran out, or the server ends."""
        waiter = Follower()
        with self.lock:
            live.waiters.add(waiter)
            over = live.state.ended or self.closed
        if not over:
            waiter.wait(timeout)
        return self._waited(live, waiter)

    async def wait_async(self, live: Live, timeout: float | None) -> Job:
        """The same in a coroutine."""
        waiter = Follower()
        with self.lock:
            live.waiters.add(waiter)
            over = live.state.ended or self.closed
        try:
            if not over:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(waiter.wait_async(), timeout)
        finally:
            job = self._waited(live, waiter)
        return job

    def _waited(self, live: Live, waiter: Follower) -> Job:
        with self.lock:
            live.waiters.discard(waiter)
            return self.snapshot(live)

    def close(self) -> None:
        """Ends every subscription and every wait."""
        with self.lock:
            self.closed = True
            for live in self.live.values():
                for waiter in live.waiters:
                    waiter.wake()
                if live.channel is not None:
                    live.channel.wake()


def told(job: Job, event_id: int, last: int | None) -> Feed:
    """The subscription to a job that has ended already: its state, unless that was heard."""
    events = [] if last == event_id else [Event(id=event_id, type="state", data=job_json(job))]
    return Feed(Follower(), lambda: (events, True), lambda: None)
