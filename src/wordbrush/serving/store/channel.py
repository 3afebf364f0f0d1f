"""What the subscribers of one job hear: a ring of its latest events, from which each reads at its own pace."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from wordbrush.serving.work import Event

# So many events are kept for a subscriber that is slow, or whose connection broke.
RING = 256


def first_event_id() -> int:
    """An event id above all that an earlier process can have given: milliseconds since 1970; events come slower."""
    return time.time_ns() // 1_000_000


class Channel:
    """The events of one job that waits or runs. Not locked itself: the jobs' lock is held wherever it is used."""

    def __init__(self) -> None:
        self.last = first_event_id()
        self._floor = self.last  # events up to this one are not in the ring
        self._ring: deque[Event] = deque()
        self.followers: set[Follower] = set()

    def publish(self, kind: str, data: dict[str, Any]) -> None:
        """Keeps an event and wakes the subscribers."""
        if kind == "preview":  # only the newest is worth its bytes
            same = data["index"]
            self._ring = deque(e for e in self._ring if e.type != "preview" or e.data["index"] != same)
        self.last += 1
        self._ring.append(Event(id=self.last, type=kind, data=data))
        if len(self._ring) > RING:
            self._floor = self._ring.popleft().id
        self.wake()

    def wake(self) -> None:
        """Lets the subscribers look."""
        for follower in tuple(self.followers):
            follower.wake()

    def since(self, last: int) -> list[Event] | None:
        """The events after event `last`; None when the ring does not reach back to it, or no such event was."""
        if not self._floor <= last <= self.last:
            return None
        if last == self.last:
            return []
        return [event for event in self._ring if event.id > last]


class Follower:
    """One subscriber's signal: set when there may be something to read."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._called = asyncio.Event()
        self._set = threading.Event()

    def wake(self) -> None:
        """From any thread; what is set already is not set again."""
        if self._set.is_set():
            return
        self._set.set()
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # its loop has ended, and so has the subscriber
                self._loop.call_soon_threadsafe(self._called.set)

    def rearm(self) -> None:
        """Before reading, so that what comes meanwhile sets it again."""
        self._called.clear()
        self._set.clear()

    def wait(self, timeout: float | None) -> bool:
        """Blocks the thread until it is set; false when the time (seconds) ran out."""
        return self._set.wait(timeout)

    async def wait_async(self) -> None:
        """Waits until it is set. May be cancelled and called again."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            if self._set.is_set():  # before `wake` knew of the loop
                return
        await self._called.wait()


class Feed:
    """One subscription: the events that `read` finds, as they come. Iterate it, in a thread or in a coroutine.

    A coroutine that waits for the next event may be cancelled (a timeout, say) and ask again; nothing is lost by that.

    Args:
        read: gives what is new, and whether that is all there will be.
        close: ends the subscription.
        timeout: how long a thread waits for one event, in seconds; then the iteration ends.
    """

    def __init__(
        self,
        follower: Follower,
        read: Callable[[], tuple[list[Event], bool]],
        close: Callable[[], None],
        timeout: float | None = None,
    ) -> None:
        self._follower = follower
        self._read = read
        self._close = close
        self._timeout = timeout
        self._ready: deque[Event] = deque()
        self._over = False

    def __iter__(self) -> Feed:
        return self

    def __aiter__(self) -> Feed:
        return self

    def __next__(self) -> Event:
        while not self._look():
            if self._over or not self._follower.wait(self._timeout):
                self.close()
                raise StopIteration
        return self._ready.popleft()

    async def __anext__(self) -> Event:
        while not self._look():
            if self._over:
                self.close()
                raise StopAsyncIteration
            await self._follower.wait_async()
        return self._ready.popleft()

    def _look(self) -> bool:
        if not self._ready and not self._over:
            self._follower.rearm()
            events, self._over = self._read()
            self._ready.extend(events)
        return bool(self._ready)

    def close(self) -> None:
        """Ends the subscription; iterating goes no further."""
        self._over = True
        self._ready.clear()
        self._close()

    async def aclose(self) -> None:
        """The same, as generators name it."""
        self.close()

    def __del__(self) -> None:
        self._close()
