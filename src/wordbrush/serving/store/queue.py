"""The order of what waits, and how fast it goes."""

from __future__ import annotations

import time
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator

from wordbrush.serving.store.records import Live

# Seconds: of painting over which the pace is measured, and of wall time that "lately" is.
PACE_WINDOW = 60.0
LATELY = 60.0
MOST_KEPT = 4096


class Order:
    """The jobs that wait: the highest priority first, and the oldest of those. Not locked itself."""

    def __init__(self) -> None:
        self._keys: list[tuple[int, int, str]] = []
        self._jobs: dict[str, Live] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Live]:
        """From the head on; it must not change meanwhile."""
        return (self._jobs[key[2]] for key in self._keys)

    def __contains__(self, live: Live) -> bool:
        return live.id in self._jobs

    def add(self, live: Live) -> None:
        """Puts a job in its place."""
        insort(self._keys, live.key)
        self._jobs[live.id] = live

    def remove(self, live: Live) -> None:
        """Takes a job out; its priority and rank must be those that it was added with."""
        del self._keys[self.position(live)]
        del self._jobs[live.id]

    def position(self, live: Live) -> int:
        """How many jobs are before it."""
        place = bisect_left(self._keys, live.key)
        if place == len(self._keys) or self._keys[place] != live.key:
            raise KeyError(live.id)
        return place

    @staticmethod
    def moved(live: Live, before: Live | None, among: list[Live], *, whole: bool) -> dict[str, tuple[int, int]]:
        """What priorities and ranks put `live` before `before`, or at the end, of the jobs `among` (in their order).

        With `whole`, they are the whole queue, and the job takes the priority of its new neighbour. Else the jobs
        `among` change places with one another, and no other job comes earlier or later for it.

        Returns priority and rank of each job that gets new ones.
        """
        rest = [job for job in among if job is not live]
        place = len(rest) if before is None else rest.index(before)
        wanted = [*rest[:place], live, *rest[place:]]
        if not whole:
            slots = [(job.priority, job.rank) for job in among]
        else:
            slots = _with_priority(wanted, live, place)
        pairs = zip(wanted, slots, strict=True)
        return {job.id: slot for job, slot in pairs if slot != (job.priority, job.rank)}


def _with_priority(wanted: list[Live], live: Live, place: int) -> list[tuple[int, int]]:
    """The slots of a whole queue in the wanted order, in which only `live` changes its priority.

    The ranks of the jobs of that priority are dealt out anew among them; all others keep theirs.
    """
    after = wanted[place + 1 :]
    if after:
        priority = after[0].priority
    else:
        priority = min((job.priority for job in wanted), default=live.priority)
    same = [job for job in wanted if job is live or job.priority == priority]
    ranks = iter(sorted(job.rank for job in same))
    given = {job.id: next(ranks) for job in same}
    return [(priority if job is live else job.priority, given.get(job.id, job.rank)) for job in wanted]


class Pace:
    """How many pictures a second are finished, by the time in which anything ran. Not locked itself."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._busy = 0.0  # seconds in which jobs ran, without those since `_since`
        self._since: float | None = None
        self._finished: deque[tuple[float, float, int]] = deque()  # busy seconds, time, pictures
        self._begun = 0.0  # busy seconds at which the window begins

    def running(self, jobs: int) -> None:
        """So many jobs run from now on."""
        now = self._clock()
        if jobs and self._since is None:
            self._since = now
        elif not jobs and self._since is not None:
            self._busy += now - self._since
            self._since = None

    def finished(self, pictures: int) -> None:
        """So many pictures are ready."""
        busy = self._busy_seconds()
        self._finished.append((busy, self._clock(), pictures))
        while self._finished[0][0] < busy - PACE_WINDOW or len(self._finished) > MOST_KEPT:
            self._begun = self._finished.popleft()[0]

    def per_second(self) -> float | None:
        """Pictures in a second of painting; None before the first."""
        if not self._finished:
            return None
        seconds = max(self._busy_seconds() - self._begun, 1e-3)
        return sum(pictures for _, _, pictures in self._finished) / seconds

    def lately(self) -> float:
        """Pictures in a second of the last minute, whether there was anything to do or not."""
        limit = self._clock() - LATELY
        return sum(pictures for _, when, pictures in self._finished if when >= limit) / LATELY

    def _busy_seconds(self) -> float:
        return self._busy + (self._clock() - self._since if self._since is not None else 0.0)
