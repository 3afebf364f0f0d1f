"""The order of the queue against a plain list that is sorted anew each time, whatever is done in whatever order."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.serving.queues import ANNA, BERT, opened, painted, submitted

from wordbrush.serving.store import Jobs, WrongState
from wordbrush.serving.store.queue import Pace
from wordbrush.serving.work import LOCAL, Caller

STEPS = (4, 5)
CALLERS = st.sampled_from([ANNA, BERT, LOCAL])


class Queue(RuleBasedStateMachine):
    """`wanted` is the queue as it should be: [id, owner, priority, steps, attempts], the head first."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.opening = opened(Path(self.folder.name))
        self.jobs: Jobs = self.opening.__enter__()
        self.wanted: list[list[object]] = []
        self.running: dict[str, list[object]] = {}
        self.places: dict[str, int] = {}
        self.number = 0

    def teardown(self) -> None:
        if hasattr(self, "opening"):
            self.opening.__exit__(None, None, None)
            self.folder.cleanup()

    def insert(self, entry: list[object]) -> None:
        """Behind all of its priority or a higher one."""
        place = sum(int(other[2]) >= int(entry[2]) for other in self.wanted)  # type: ignore[call-overload]
        self.wanted.insert(place, entry)

    @rule(caller=CALLERS, priority=st.integers(-2, 2), steps=st.sampled_from(STEPS), count=st.integers(1, 3))
    def submit(self, caller: Caller, priority: int, steps: int, count: int) -> None:
        priority = priority if caller.admin else min(priority, 0)
        self.number += 1
        work = painted(str(self.number), steps=steps, count=count)
        job = self.jobs.submit(work, caller, source="v1", priority=priority)
        self.insert([job.id, caller.id, priority, (steps, count), 0])

    @precondition(lambda self: self.wanted)
    @rule(data=st.data(), most=st.integers(1, 5))
    def take(self, data: st.DataObject, most: int) -> None:
        batch = self.jobs.next_batch("one", most)
        head = self.wanted[0]
        expected, room = [head], most - head[3][1]  # type: ignore[index]
        if not head[4]:
            for entry in self.wanted[1:]:
                if entry[3][0] == head[3][0] and entry[3][1] <= room and not entry[4]:  # type: ignore[index]
                    expected.append(entry)
                    room -= entry[3][1]  # type: ignore[index]
        assert [job.id for job in batch] == [entry[0] for entry in expected]
        for entry in expected:
            self.wanted.remove(entry)
            self.running[str(entry[0])] = entry
            entry[4] = int(entry[4]) + 1  # type: ignore[call-overload]

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.running)))
        del self.running[job_id]
        self.jobs.done(job_id)

    @precondition(lambda self: self.wanted)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.wanted))
        self.wanted.remove(entry)
        self.jobs.cancel(str(entry[0]), LOCAL)

    @precondition(lambda self: len(self.wanted) > 1)
    @rule(data=st.data())
    def move(self, data: st.DataObject) -> None:
        """An administrator: in the whole queue, and with the priority of what it then stands before."""
        entry, other = (data.draw(st.sampled_from(self.wanted)) for _ in range(2))
        last = data.draw(st.booleans())
        self.jobs.move(str(entry[0]), LOCAL, before=None if last else str(other[0]))
        if not last and other is entry:
            return
        self.wanted.remove(entry)
        if last:
            entry[2] = min(int(one[2]) for one in [*self.wanted, entry])  # type: ignore[call-overload]
            self.wanted.append(entry)
        else:
            entry[2] = other[2]
            self.wanted.insert(self.wanted.index(other), entry)

    @precondition(lambda self: self.wanted)
    @rule(data=st.data(), priority=st.integers(-2, 2))
    def prefer(self, data: st.DataObject, priority: int) -> None:
        """It comes among those of its new priority; the others stay as they are to one another."""
        entry = data.draw(st.sampled_from(self.wanted))
        place = self.jobs.set_priority(str(entry[0]), LOCAL, priority).position
        self.wanted.remove(entry)
        entry[2] = priority
        assert place is not None
        self.wanted.insert(place, entry)
        priorities = [int(one[2]) for one in self.wanted]  # type: ignore[call-overload]
        assert priorities == sorted(priorities, reverse=True)

    @rule(data=st.data(), caller=st.sampled_from([ANNA, BERT]))
    def move_own(self, data: st.DataObject, caller: Caller) -> None:
        """Others: only their own jobs change places, and those of everyone else stay where they are."""
        places = [place for place, entry in enumerate(self.wanted) if entry[1] == caller.id]
        if len(places) < 2:
            return
        own = [self.wanted[place] for place in places]
        priorities = [entry[2] for entry in own]
        entry, other = (data.draw(st.sampled_from(own)) for _ in range(2))
        last = data.draw(st.booleans())
        self.jobs.move(str(entry[0]), caller, before=None if last else str(other[0]))
        if not last and other is entry:
            return
        own.remove(entry)
        own.insert(len(own) if last else own.index(other), entry)
        for place, one, priority in zip(places, own, priorities, strict=True):
            self.wanted[place] = one
            one[2] = priority

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "jobs"):
            return
        queue = self.jobs.queue(LOCAL)
        assert [job.id for job in queue] == [entry[0] for entry in self.wanted]
        assert [job.priority for job in queue] == [entry[2] for entry in self.wanted]
        assert [job.position for job in queue] == list(range(len(queue)))

    @rule()
    def restart(self) -> None:
        """What ran waits again, at the place that its rank gives it; everything else is as before."""
        before = [entry[0] for entry in self.wanted]
        self.opening.__exit__(None, None, None)
        self.opening = opened(Path(self.folder.name))
        self.jobs = self.opening.__enter__()
        queue = [job.id for job in self.jobs.queue(LOCAL)]
        assert [job_id for job_id in queue if job_id not in self.running] == before
        assert set(queue) == {*before, *self.running}
        entries = {str(entry[0]): entry for entry in [*self.wanted, *self.running.values()]}
        self.wanted = [entries[job_id] for job_id in queue]
        self.running = {}
        priorities = [int(entry[2]) for entry in self.wanted]  # type: ignore[call-overload]
        assert priorities == sorted(priorities, reverse=True)


TestQueue = Queue.TestCase
TestQueue.settings = settings(
    max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_only_what_waits_has_a_place(tmp_path: Path) -> None:
    with opened(tmp_path) as jobs:
        runs, waits = submitted(jobs), submitted(jobs)
        jobs.next_batch("one", 1)
        for call in (
            lambda: jobs.move(runs.id, LOCAL, before=None),
            lambda: jobs.move(waits.id, LOCAL, before=runs.id),
            lambda: jobs.set_priority(runs.id, LOCAL, 1),
        ):
            with pytest.raises(WrongState, match="is running; only jobs that wait have a place"):
                call()


def test_the_order_is_in_the_database(tmp_path: Path) -> None:
    with opened(tmp_path) as jobs:
        made = [submitted(jobs, str(number)).id for number in range(5)]
        jobs.move(made[4], LOCAL, before=made[1])
        jobs.set_priority(made[2], LOCAL, 1)
        order = [job.id for job in jobs.queue(LOCAL)]
    assert order == [made[number] for number in (2, 0, 4, 1, 3)]
    with opened(tmp_path) as jobs:
        assert [job.id for job in jobs.queue(LOCAL)] == order
        assert submitted(jobs).position == 5


def test_the_pace_counts_only_the_time_in_which_something_ran() -> None:
    now = [0.0]
    pace = Pace(lambda: now[0])
    assert pace.per_second() is None
    for _ in range(5):
        pace.running(2)
        now[0] += 2
        pace.finished(8)
        pace.running(0)
        now[0] += 100
    assert pace.per_second() == pytest.approx(4)
    assert pace.lately() == pytest.approx(0)
    pace.running(1)
    for _ in range(100):
        now[0] += 1
        pace.finished(1)
    assert pace.per_second() == pytest.approx(1, rel=0.05)
    assert pace.lately() == pytest.approx(1, rel=0.05)
