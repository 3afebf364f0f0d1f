"""The workers' side of the queue: batches are handed out, progress and pictures come back, and jobs end."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from wordbrush.serving.store import rows
from wordbrush.serving.store.board import Board
from wordbrush.serving.store.records import Live, now_us, picture_json, progress_json
from wordbrush.serving.store.rows import Ending
from wordbrush.serving.store.store import Store
from wordbrush.serving.work import Job, JobState, Problem, Progress, StoredPicture

# A job under which so many worker processes ended is not tried again.
MOST_CRASHES = 3


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A job that is done.

    Attributes:
        output: what is not a picture.
        notes: what the client should know.
    """

    job_id: str
    output: dict[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()


class Handing:
    """The half of `Jobs` that hands out work.

    Two locks: `_writing` is held over each change and its transaction; the board's for what is in memory alone. What
    is in memory changes after the transaction, so it never says what the database does not.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._database = store.database
        self._board = Board()
        self._writing = threading.RLock()
        self._paused = False
        self._when_queued: list[Callable[[], None]] = []
        self._when_cancelled: list[Callable[[str, bool], None]] = []
        self._when_ended: list[Callable[[Job], None]] = []

    def on_queued(self, callback: Callable[[], None]) -> None:
        """Calls it whenever there may be something to do; from any thread, outside all locks."""
        self._when_queued.append(callback)

    def on_cancel(self, callback: Callable[[str, bool], None]) -> None:
        """Calls it with a job's id and `keep_partial` when a running job is to stop; from any thread."""
        self._when_cancelled.append(callback)

    def on_ended(self, callback: Callable[[Job], None]) -> None:
        """Calls it with each job that has ended, once that is in the database; from any thread."""
        self._when_ended.append(callback)

    def next_batch(self, worker: str, most: int, accepts: Callable[[Job], bool] | None = None) -> list[Job]:
        """Takes the first job that waits, and those that can be painted together with it; they run now.

        Args:
            worker: who takes them, 64 characters at most.
            most: how many pictures they may have together; the first may have more, and is then alone.
            accepts: whether the worker can do a job; None is any.

        Returns none when nothing waits that it accepts, or the queue is paused.
        """
        with self._writing:
            with self._board.lock:
                chosen = [] if self._paused or self._board.closed else self._choose(most, accepts)
            if not chosen:
                return []
            when = now_us()
            with self._database.write() as connection:
                rows.start_jobs(connection, chosen, worker, when)
            return self._board.start(chosen, worker, when)

    def _choose(self, most: int, accepts: Callable[[Job], bool] | None) -> list[Live]:
        waiting = iter(self._board.order)
        first = next((live for live in waiting if accepts is None or accepts(live.job(None))), None)
        if first is None:
            return []
        chosen, room = [first], most - first.size
        if first.batch_key is None or first.attempts:  # what was begun before may be what ended a worker
            return chosen
        for live in waiting:
            if room <= 0:
                break
            joins = live.batch_key == first.batch_key and live.size <= room and not live.attempts
            if joins and (accepts is None or accepts(live.job(None))):
                chosen.append(live)
                room -= live.size
        return chosen

    def progress(self, job_id: str, progress: Progress) -> None:
        """How far a running job is. Kept in memory only."""
        with self._board.lock:
            live = self._running(job_id)
            if live is not None:
                live.progress = progress
                if live.channel is not None:
                    live.channel.publish("progress", progress_json(progress))

    def preview(self, job_id: str, index: int, jpeg: bytes) -> None:
        """What picture `index` of a running job looks like by now. Kept in memory, for who listens."""
        with self._board.lock:
            live = self._running(job_id)
            if live is not None and live.channel is not None:
                data = base64.b64encode(jpeg).decode("ascii")
                live.channel.publish("preview", {"index": index, "mime": "image/jpeg", "data": data})

    def picture(self, job_id: str, picture: StoredPicture) -> None:
        """A picture of a running job is finished, and its file written. It is in the database when the job ends."""
        with self._board.lock:
            live = self._running(job_id)
            if live is not None:
                live.pictures[picture.role, picture.index] = picture
                self._board.publish(live, "picture", picture_json(picture))

    def done(self, job_id: str, output: dict[str, Any] | None = None, notes: Sequence[str] = ()) -> None:
        """A running job is done; its pictures were told before. Without effect on one that does not run."""
        self.done_all([Finished(job_id=job_id, output=output or {}, notes=notes)])

    def done_all(self, jobs: Iterable[Finished]) -> None:
        """The same for several, in one transaction."""
        with self._writing:
            endings = [
                Ending(live=live, state=JobState.DONE, notes=tuple(one.notes), output=one.output)
                for one in jobs
                if (live := self._running(one.job_id)) is not None
            ]
            ended = self._end(endings)
        self._tell_ended(ended)

    def failed(self, job_id: str, problem: Problem) -> None:
        """A running job failed; what pictures it has are kept. Without effect on one that does not run."""
        self._stop(job_id, JobState.FAILED, problem)

    def cancelled(self, job_id: str) -> None:
        """A running job that was to stop has; its pictures are kept. Without effect on one that does not run."""
        self._stop(job_id, JobState.CANCELLED, None)

    def requeue(self, job_ids: Iterable[str], worker: str, *, crashed: bool = True) -> None:
        """Running jobs go back to where they were in the queue, and lose what they had.

        Jobs that were to be cancelled are. One under which three workers have ended fails.

        Args:
            worker: only jobs that this one runs.
            crashed: the worker ended by itself; else it was told to, and that does not count as an attempt.
        """
        with self._writing:
            wanted = dict.fromkeys(job_ids)
            jobs = [live for job_id in wanted if (live := self._running(job_id)) is not None and live.worker == worker]
            endings = [ending for live in jobs if (ending := self._gives_up(live, crashed=crashed)) is not None]
            over = {ending.live.id for ending in endings}
            again = [live for live in jobs if live.id not in over]
            with self._database.write() as connection:
                if again:
                    rows.queue_again(connection, again, crashed=crashed)
            for live in again:
                live.crashes += crashed
                live.attempts -= not crashed
                self._board.queue(live)
            ended = self._end(endings)
        self._tell_ended(ended)
        self._tell_queued()

    @staticmethod
    def _gives_up(live: Live, *, crashed: bool) -> Ending | None:
        if live.cancelling:
            return Ending(live=live, state=JobState.CANCELLED)
        if crashed and live.crashes + 1 >= MOST_CRASHES:
            message = f"the worker process ended {MOST_CRASHES} times while it did this job, so it is not tried again"
            return Ending(live=live, state=JobState.FAILED, problem=Problem(kind="crash", message=message))
        return None

    def _stop(self, job_id: str, state: JobState, problem: Problem | None) -> None:
        with self._writing:
            live = self._running(job_id)
            ended = [] if live is None else self._end([Ending(live=live, state=state, problem=problem)])
        self._tell_ended(ended)

    def _end(self, endings: Sequence[Ending]) -> list[Job]:
        """Ends jobs in one transaction; `_writing` is held. `_tell_ended` is to be called when it no longer is."""
        if not endings:
            return []
        when = now_us()
        with self._database.write() as connection:
            rows.end_jobs(connection, endings, when)
        ended = []
        with self._board.lock:
            for ending in endings:
                live = ending.live
                live.problem, live.notes, live.output = ending.problem, ending.notes, ending.output
                ended.append(self._board.end(live, ending.state, when))
        return ended

    def _running(self, job_id: str) -> Live | None:
        live = self._board.live.get(job_id)
        return live if live is not None and live.state is JobState.RUNNING else None

    def _tell_queued(self) -> None:
        for callback in self._when_queued:
            callback()

    def _tell_ended(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            for callback in self._when_ended:
                callback(job)
