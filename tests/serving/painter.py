"""A painter for tests of what lies above the workers: it takes jobs as a worker does, and paints plain colours.

It needs no torch and no process, and can be held still in the middle of a job.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from io import BytesIO

from PIL import Image

from wordbrush.metadata import PictureMetadata, png_bytes
from wordbrush.serving.settings import Settings
from wordbrush.serving.store import Jobs, Store
from wordbrush.serving.work import Describe, Explain, Generate, Job, Progress, StoredPicture

STEPS = 4


@dataclass
class Status:
    """As the dispatcher tells of a worker."""

    pid: int | None = None
    state: str = "ready"
    device: str = "cpu"
    models: dict[str, int] = field(default_factory=lambda: {"scenes-128": 1000})
    memory: int = 2000
    jobs: tuple[str, ...] = ()


class Painter:
    """Paints job after job in one thread.

    Attributes:
        go: cleared, it stops before the next step of a job; set, it paints.
        dropped: how often its models were dropped.
    """

    def __init__(self, jobs: Jobs, store: Store, settings: Settings) -> None:
        self.jobs, self.store, self.settings = jobs, store, settings
        self.go = threading.Event()
        self.go.set()
        self.dropped = 0
        self._queued = threading.Event()
        self._cancelled: dict[str, bool] = {}
        self._ending = threading.Event()
        self._current: Job | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        jobs.on_queued(self._queued.set)
        jobs.on_cancel(self._cancelled.__setitem__)

    def start(self) -> None:
        self._thread.start()

    def stop(self, grace: float) -> None:
        self._ending.set()
        self._queued.set()
        self._thread.join(grace)
        if self._thread.is_alive():  # as a dispatcher does whose worker takes too long
            job, self._current = self._current, None
            if job is not None:
                self.jobs.requeue([job.id], "painter", crashed=False)

    def status(self) -> list[Status]:
        job = self._current
        return [Status(state="busy" if job else "ready", jobs=(job.id,) if job else ())]

    def drop_models(self) -> None:
        self.dropped += 1

    def _run(self) -> None:
        while not self._ending.is_set():
            self._queued.clear()
            batch = self.jobs.next_batch("painter", 1)
            if not batch:
                self._queued.wait(1)
            for job in batch:
                self._current = job
                self._paint(job)
                self._current = None

    def _paint(self, job: Job) -> None:
        request = job.work.request if isinstance(job.work, Generate | Explain) else None
        for step in range(STEPS):
            while not self.go.wait(0.02):
                if self._current is not job or job.id in self._cancelled:
                    break
            if self._current is not job:
                return
            if job.id in self._cancelled:
                if self._cancelled[job.id] and request is not None:
                    self._finish(job, 0, role="partial")
                self.jobs.cancelled(job.id)
                return
            self.jobs.progress(job.id, Progress(step=step + 1, steps=STEPS, eta=0.1 * (STEPS - step)))
            self.jobs.preview(job.id, 0, _jpeg(step))
        count = request.pictures if request is not None else 0 if isinstance(job.work, Describe) else 1
        for index in range(count):
            self._finish(job, index)
        self.jobs.done(job.id, {"caption": "a plain colour"} if isinstance(job.work, Describe) else {}, ())

    def _finish(self, job: Job, index: int, role: str = "picture") -> None:
        if isinstance(job.work, Generate | Explain):
            single = job.work.request.part(index, index + 1)
            side = (single.width or 32, single.height or 32)
            colour = (single.seed or 0) % 256
            data = png_bytes(Image.new("RGB", side, (colour, 80, 200)), PictureMetadata(request=single))
            seed, filled = single.seed, single.to_dict() | {"steps": STEPS}
        else:
            side, seed, filled = (64, 64), None, None
            buffer = BytesIO()
            Image.new("RGB", side, (1, 2, 3)).save(buffer, "PNG")
            data = buffer.getvalue()
        sha256 = self.store.pictures.add(data)
        self.jobs.picture(
            job.id,
            StoredPicture(
                sha256=sha256, index=index, width=side[0], height=side[1], bytes=len(data), role=role, seed=seed,
                request=filled,
            ),
        )


def _jpeg(step: int) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (8, 8), (step * 40, 0, 0)).save(buffer, "JPEG")
    return buffer.getvalue()
