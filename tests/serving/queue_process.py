"""A server's queue in a process of its own, for tests that kill it: clients, workers, and what they were told.

Called with the data folder, the first and the last number of the jobs to ask for, and an optional database URL. It
prints a line for each thing that was promised: `asked NUMBER ID`, `done ID`, `cancelled ID`; and `idle` when nothing is
left.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from tests.serving.queues import file_of, painted

from wordbrush.serving.settings import Settings
from wordbrush.serving.store import Jobs, PictureFiles, Store
from wordbrush.serving.work import LOCAL, JobState, Progress

# Every so many-th job is cancelled.
CANCELLED = 9


def say(*words: object) -> None:
    """One write, so that a line is there whole or not at all."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def ask(jobs: Jobs, numbers: range) -> None:
    """A client that, after each restart, asks for everything again with the same keys."""
    for number in numbers:
        work = painted(f"number {number}", seed=number)
        say("asked", number, jobs.submit(work, LOCAL, source="v1", idempotency_key=f"key-{number}").id)


def paint(jobs: Jobs, name: str, folder: Path) -> None:
    """A worker: the picture's grey is the job's seed."""
    files = PictureFiles(folder)
    while True:
        batch = jobs.next_batch(name, 4)
        if not batch:
            time.sleep(0.002)
        for job in batch:
            seed = job.work.request.seed or 0  # type: ignore[union-attr]
            if seed % CANCELLED == 0 and jobs.cancel(job.id, LOCAL).state is JobState.RUNNING:
                jobs.cancelled(job.id)
                say("cancelled", job.id)
                continue
            jobs.progress(job.id, Progress(step=1, steps=2))
            jobs.picture(job.id, file_of(files, seed % 256))
            jobs.done(job.id)
            say("done", job.id)


def main() -> None:
    """Runs until it is killed."""
    folder, first, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    settings = Settings(data=folder, queue_limit=100_000, database=sys.argv[4] if len(sys.argv) > 4 else None)
    jobs = Jobs(Store(settings))
    say("open")
    middle = (first + last) // 2
    clients = [
        threading.Thread(target=ask, args=(jobs, numbers)) for numbers in (range(first, middle), range(middle, last))
    ]
    for thread in clients:
        thread.start()
    for name in ("one", "two"):
        threading.Thread(target=paint, args=(jobs, name, folder), daemon=True).start()
    for thread in clients:
        thread.join()
    while jobs.count(LOCAL):
        time.sleep(0.01)
    say("idle")
    time.sleep(60)


if __name__ == "__main__":
    main()
