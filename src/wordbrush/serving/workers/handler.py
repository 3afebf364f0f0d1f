"""One worker as the server sees it: a thread that starts its process, gives it work, and hears what becomes of it."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING

from wordbrush.errors import WordbrushError
from wordbrush.serving.work import Job
from wordbrush.serving.workers.process import run
from wordbrush.serving.workers.protocol import (
    Batch,
    Cancel,
    Cancelled,
    Done,
    DropModels,
    Dropped,
    Failed,
    Finished,
    Order,
    Painted,
    Previewed,
    Progressed,
    Ready,
    Report,
    Setup,
    State,
    Stop,
    Task,
    Unfit,
    Watch,
)

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

    from wordbrush.serving.store.jobs import Jobs

logger = logging.getLogger(__name__)

# Seconds before a worker that ended is started again: the first, doubled each time that it does nothing in between.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0

# How often a thread looks around although nothing has happened, in seconds.
_LOOK = 1.0

# Seconds that a worker has to end by itself once it is told to.
_LAST_WORDS = 5.0


@dataclass(frozen=True, kw_only=True)
class WorkerStatus:
    """How a worker is.

    Attributes:
        pid: of its process; None while there is none.
        state: "starting", "ready", "busy" or "dead", which is started again after a while.
        device: in words, once it is known.
        models: name -> bytes of the models that it keeps, as of its last batch.
        memory: bytes that it takes, as of then.
        jobs: ids of those it does.
        problem: why it is dead.
        starts: how often it was started.
    """

    name: str
    pid: int | None = None
    state: str = "starting"
    device: str | None = None
    models: dict[str, int] = field(default_factory=dict)
    memory: int = 0
    jobs: tuple[str, ...] = ()
    problem: str | None = None
    starts: int = 0


class Handler:
    """Keeps one worker process going, and busy.

    Args:
        linger: seconds that an idle worker waits for more jobs once one has come, so that they are one batch.
    """

    def __init__(self, jobs: Jobs, setup: Setup, *, linger: float) -> None:
        self.setup = setup
        self._jobs, self._linger = jobs, linger
        self._lock = threading.Lock()  # over what follows, and over what is sent
        self._held: dict[str, bool] = {}  # jobs that the worker does -> whether it knows of somebody looking on
        self._connection: Connection | None = None
        self._process: SpawnProcess | None = None
        self._state: State | None = None
        self._ready = self._busy = False
        self._problem: str | None = None
        self._starts = self._fruitless = 0
        self._heard, self._bell = multiprocessing.Pipe(duplex=False)
        self._stopping = threading.Event()
        self._deadline = 0.0
        self._thread = threading.Thread(target=self._run, name=setup.name, daemon=True)

    # --- for any thread ---

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def wake(self) -> None:
        """There may be something to do."""
        with contextlib.suppress(OSError):
            if not self._heard.poll():
                self._bell.send_bytes(b"!")

    def cancel(self, job_id: str, *, keep_partial: bool) -> None:
        """Passes it on if the job is this worker's."""
        with self._lock:
            if job_id in self._held:
                self._send(Cancel(job_id, keep_partial))

    def drop_models(self) -> None:
        """Passes it on."""
        with self._lock:
            self._send(DropModels())

    def stop(self, grace: float) -> None:
        """Gives out nothing more; what is not finished within `grace` seconds is queued again. Returns at once."""
        self._deadline = time.monotonic() + grace
        self._stopping.set()
        self.wake()

    def join(self) -> None:
        """Waits until it has stopped."""
        if self._thread.is_alive():
            self._thread.join()

    @property
    def status(self) -> WorkerStatus:
        """How it is now."""
        with self._lock:
            process, state = self._process, self._state
            alive = process is not None and process.is_alive()
            word = "dead" if not alive else "busy" if self._busy else "ready" if self._ready else "starting"
            return WorkerStatus(
                name=self.setup.name, pid=process.pid if process is not None and alive else None, state=word,
                device=None if state is None else state.device, models={} if state is None else dict(state.models),
                memory=0 if state is None else state.memory, jobs=tuple(self._held), problem=self._problem,
                starts=self._starts,
            )  # fmt: skip

    # --- the thread ---

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._start_process()
                self._converse()
            except (EOFError, OSError) as error:
                self._problem = self._problem or "its process ended"
                logger.warning("worker %s ended: %s", self.setup.name, self._problem or error)
            except WordbrushError as error:  # of the store, which says what is wrong with it
                self._problem = str(error)
                logger.error("worker %s: %s", self.setup.name, error)
            except Exception as error:  # without this thread its jobs would run for ever
                self._problem = f"{type(error).__name__}: {error}"
                logger.error("worker %s: unforeseen", self.setup.name, exc_info=error)
                self._hear_no_more()
            finally:
                self._end_process()
            if not self._stopping.is_set():
                pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self._fruitless, 10))
                self._fruitless += 1
                self._stopping.wait(pause)

    def _hear_no_more(self) -> None:
        """Something that the worker said was lost: its jobs are not done, whatever it says next."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()

    def _start_process(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=run, args=(self.setup, theirs), name=f"wordbrush {self.setup.name}", daemon=True
        )
        process.start()
        theirs.close()  # so that its end is heard when the process ends
        with self._lock:
            self._connection, self._process, self._state = ours, process, None
            self._ready = self._busy = False
            self._starts += 1

    def _converse(self) -> None:
        """Until the worker is to stop. Raises EOFError or OSError when its process has ended."""
        assert self._connection is not None
        connection, lingering = self._connection, False
        while True:
            if self._ready and not self._busy:
                if self._stopping.is_set():
                    return
                if lingering and self._linger:
                    time.sleep(self._linger)
                self._give_work()
            elif self._stopping.is_set() and (not self._held or time.monotonic() >= self._deadline):
                return
            idle, timeout = not self._busy, _LOOK
            if self._stopping.is_set():
                timeout = min(_LOOK, max(0.0, self._deadline - time.monotonic()))
            found = wait([connection, self._heard], timeout)
            if self._heard in found:
                self._heard.recv_bytes()
            lingering = idle and self._ready and self._heard in found
            if connection in found:
                self._hear(connection.recv())

    def _give_work(self) -> None:
        with self._lock:  # so that a job's cancelling never overtakes the job
            jobs = self._jobs.next_batch(self.setup.name, self.setup.batch)
            if not jobs:
                return
            self._held = {job.id: self._jobs.watched(job.id) for job in jobs}
            self._busy = True
            self._send(Batch(tuple(_task(job, watched=self._held[job.id]) for job in jobs)))

    def _send(self, order: Order) -> None:
        """`_lock` is held."""
        if self._connection is not None:
            with contextlib.suppress(OSError):  # its end is heard elsewhere
                self._connection.send(order)

    def _hear(self, reports: Sequence[Report]) -> None:
        done = [report for report in reports if isinstance(report, Done)]
        for report in reports:
            if not isinstance(report, Done):
                self._hear_one(report)
        if done:
            self._all_done(done)

    def _hear_one(self, report: Report) -> None:
        jobs = self._jobs
        if isinstance(report, Progressed):
            jobs.progress(report.job_id, report.progress)
            self._look_who_watches(report.job_id)
        elif isinstance(report, Previewed):
            jobs.preview(report.job_id, report.index, report.jpeg)
        elif isinstance(report, Painted):
            jobs.picture(report.job_id, report.picture)
        elif isinstance(report, Failed):
            self._ended(report.job_id, lambda: jobs.failed(report.job_id, report.problem))
        elif isinstance(report, Cancelled):
            self._ended(report.job_id, lambda: jobs.cancelled(report.job_id))
        elif isinstance(report, Unfit):
            self._problem = report.message
            raise EOFError(report.message)
        elif isinstance(report, Dropped):
            with self._lock:
                self._state = report.state
        elif isinstance(report, Ready | Finished):
            with self._lock:
                self._state, self._ready, self._busy = report.state, True, False
            self._problem = None
            if isinstance(report, Finished):
                self._fruitless = 0
                self._return_rest()

    def _all_done(self, done: Sequence[Done]) -> None:
        from wordbrush.serving.store.jobs import Finished as Ending

        endings = [Ending(job_id=one.job_id, output=one.output, notes=one.notes) for one in done]
        self._jobs.done_all(endings)
        with self._lock:
            for one in done:
                self._held.pop(one.job_id, None)

    def _ended(self, job_id: str, tell: Callable[[], None]) -> None:
        tell()
        with self._lock:
            self._held.pop(job_id, None)

    def _return_rest(self) -> None:
        """A worker that has finished a batch has said of every job what became of it; if not, they are done again."""
        if self._held:
            logger.error("worker %s forgot the jobs %s", self.setup.name, list(self._held))
            if not self._give_back(crashed=True):
                raise EOFError("its jobs could not be put back")

    def _look_who_watches(self, job_id: str) -> None:
        watched = self._jobs.watched(job_id)
        with self._lock:
            if self._held.get(job_id, watched) != watched:
                self._held[job_id] = watched
                self._send(Watch(job_id, watched))

    def _end_process(self) -> None:
        """Whatever the process was at; a job's last word that it has still said counts."""
        with self._lock:
            connection, process = self._connection, self._process
            idle = self._ready and not self._busy
        if connection is not None and process is not None:
            with contextlib.suppress(OSError):
                if idle:
                    connection.send(Stop())
                    process.join(_LAST_WORDS)
            if process.is_alive():
                process.kill()
            process.join()
            self._hear_the_last(connection)
        told = self._stopping.is_set()
        with self._lock:
            self._connection, self._ready, self._busy = None, False, False
        while self._held and not self._give_back(crashed=not told) and not self._stopping.wait(_LOOK):
            pass

    def _hear_the_last(self, connection: Connection) -> None:
        with contextlib.suppress(Exception):  # of the pipe's end, or of the store: the jobs are done again
            while connection.poll():
                self._hear(connection.recv())
        connection.close()

    def _give_back(self, *, crashed: bool) -> bool:
        """Puts what is held back into the queue. Returns whether that could be written down."""
        try:
            self._jobs.requeue(list(self._held), self.setup.name, crashed=crashed)
        except Exception as error:  # noqa: BLE001  the disk is full, say; a restart of the server puts them back, too
            logger.error("worker %s: %s", self.setup.name, error)
            return False
        with self._lock:
            self._held = {}
        return True


def _task(job: Job, *, watched: bool) -> Task:
    return Task(job_id=job.id, work=job.work, watched=watched)
