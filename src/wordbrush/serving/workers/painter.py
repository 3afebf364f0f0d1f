"""One batch of jobs in a worker: joined into loops, painted, written into files, and reported as it comes forward."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic
from typing import TYPE_CHECKING

from torch import Tensor

from wordbrush.editing.joined import joined
from wordbrush.errors import WordbrushError
from wordbrush.metadata import Origin, PictureMetadata, png_bytes
from wordbrush.serving.catalogue import Catalogue
from wordbrush.serving.store.files import InputFiles, PictureFiles
from wordbrush.serving.work import Generate, Progress, StoredPicture
from wordbrush.serving.workers.deeds import Deeds
from wordbrush.serving.workers.models import Models
from wordbrush.serving.workers.problems import attempt, problem_of
from wordbrush.serving.workers.protocol import (
    Cancelled,
    Done,
    Failed,
    Painted,
    Previewed,
    Progressed,
    Report,
    Reports,
    Setup,
    Task,
)
from wordbrush.serving.workers.rows import Desk, Painting, Row, with_inputs

if TYPE_CHECKING:
    from PIL import Image

    from wordbrush.pipeline import Pipeline

logger = logging.getLogger(__name__)

Send = Callable[[Reports], None]

# Previews of one picture are so many steps apart that there are about this many, however many steps it takes.
_PREVIEWS = 10

# Seconds between two reports on a job that nobody watches: each costs the server time that the painting needs.
_TELL_EVERY = 0.25

_LOADING = Progress(phase="loading")


class Painter:
    """Does batches, one after the other. `send` is called from the thread that calls `do`."""

    def __init__(self, setup: Setup, models: Models, catalogue: Catalogue, desk: Desk, send: Send) -> None:
        self._setup, self._models, self._catalogue, self._desk, self._send = setup, models, catalogue, desk, send
        self._files, self._inputs = PictureFiles(setup.data), InputFiles(setup.data)
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="files")
        self._deeds = Deeds(setup, models, catalogue, desk, self._tell_alone)
        self._open: dict[str, Painting | None] = {}
        self._rows: list[Row] = []
        self._estimate: Tensor | None = None

    def do(self, tasks: Sequence[Task]) -> None:
        """Does all of them; every one ends with one last report. Raises nothing."""
        self._open = {task.job_id: None for task in tasks}
        groups: dict[tuple[str, str | None], list[Task]] = {}
        for task in tasks:
            if isinstance(task.work, Generate):
                request = task.work.request
                groups.setdefault((str(request.model), request.vae), []).append(task)
            else:
                self._alone(task)
        for (model, vae), group in groups.items():
            self._group(model, vae, group)

    # --- what is not painted from a request ---

    def _alone(self, task: Task) -> None:
        self._look()
        if task.job_id not in self._open:
            return
        with attempt() as tried:
            done = self._deeds.do(task)
        if tried.problem is not None:
            self._end(task.job_id, Failed(task.job_id, tried.problem))
        else:
            self._end(task.job_id, Cancelled(task.job_id) if done is None else done)
        self._models.settle()

    def _tell_alone(self, reports: Reports) -> None:
        """What the one job that is done says; those that wait behind it are let go meanwhile if they are to be."""
        self._send(reports)
        for job_id in list(self._open)[1:]:
            self._let_go(job_id)

    # --- pictures from requests ---

    def _group(self, model: str, vae: str | None, tasks: Sequence[Task]) -> None:
        """Jobs for one model."""
        self._look()
        tasks = [task for task in tasks if task.job_id in self._open]
        if not tasks:
            return
        if not self._models.has(model, vae):
            self._send(tuple(Progressed(task.job_id, _LOADING) for task in tasks))
        with attempt() as tried:
            pipe = self._models.pipeline(model, vae)
        if tried.problem is not None:
            for task in tasks:
                self._end(task.job_id, Failed(task.job_id, tried.problem))
            return
        jobs = [job for task in tasks if (job := self._begun(pipe, task)) is not None]
        for rows in self._loops(pipe, jobs):
            self._paint(pipe, rows, again=True)
        self._models.settle()

    def _begun(self, pipe: Pipeline, task: Task) -> Painting | None:
        """A job ready to paint; None for one that cannot be, or is not wanted any more, which is said."""
        assert isinstance(task.work, Generate)
        self._look()
        if task.job_id not in self._open:
            return None
        with attempt() as tried:
            request = pipe.fill(with_inputs(task.work.request, self._inputs))
            self._catalogue.refuse_unknown_loras(request)
            notes = tuple(pipe.notes(request))
            job = Painting(job_id=task.job_id, request=request, steps=pipe.step_count(request), notes=notes)
        if tried.problem is not None:
            self._end(task.job_id, Failed(task.job_id, tried.problem))
            return None
        self._open[task.job_id] = job
        return job

    def _loops(self, pipe: Pipeline, jobs: Sequence[Painting]) -> Iterator[list[Row]]:
        """The pictures of the jobs in the loops that will paint them."""
        agreeing: dict[str, list[Row]] = {}
        for job in jobs:
            for row in job.rows:
                agreeing.setdefault(job.agreement(row.index), []).append(row)
        for rows in agreeing.values():
            most = max(1, min(self._setup.batch, pipe.batch_size(rows[0].job.request)))
            yield from (rows[start : start + most] for start in range(0, len(rows), most))

    def _paint(self, pipe: Pipeline, rows: Sequence[Row], *, again: bool) -> None:
        """Paints one loop; where that fails, in parts, so that only what cannot be painted is not.

        again: whether, out of memory, it is tried once more with half as many pictures.
        """
        self._look()
        rows = [row for row in rows if not row.job.ended]
        if not rows:
            return
        before = {row.job: row.job.step for row in rows}
        with attempt() as tried:
            self._loop(pipe, rows)
        if tried.problem is None:
            return
        self._estimate, self._rows = None, []
        rows = [row for row in rows if not row.job.ended]
        for job, step in before.items():
            job.step = step
        jobs = list(dict.fromkeys(row.job for row in rows))
        parts: list[list[Row]] = []
        if tried.short and again:
            freed = self._models.drop_others()
            half = -(-len(rows) // 2)
            parts = [rows[:half], rows[half:]] if len(rows) > 1 else [rows] if freed else []
        elif not tried.short and len(jobs) > 1:
            parts = [[row for row in rows if row.job is job] for job in jobs]
        for part in parts:
            self._paint(pipe, part, again=again and not tried.short)
        if not parts:
            for job in jobs:
                self._end(job.job_id, Failed(job.job_id, tried.problem))

    def _loop(self, pipe: Pipeline, rows: list[Row]) -> None:
        loop = joined([row.single for row in rows])
        steps, started = rows[0].job.steps, monotonic()
        told = started
        self._rows = rows
        jobs = list(dict.fromkeys(row.job for row in rows))
        self._tell([job for job in jobs if job.step == 0])  # it has begun
        latents = None
        for number, step in enumerate(pipe.steps(loop.request, loop.seeds), 1):
            latents, self._estimate = step.x, step.x0
            for row in rows:
                row.job.step += 1
            self._look(pipe)
            if all(row.job.ended for row in rows):
                self._estimate, self._rows = None, []
                return
            pace = (monotonic() - started) / number
            due = monotonic() - told >= _TELL_EVERY
            heard = [job for job in jobs if due or self._desk.watched(job.job_id)]
            self._tell(heard, eta={job: pace * (steps - number + steps * _later(job, rows)) for job in heard})
            told = monotonic() if due else told
            if number % max(1, steps // _PREVIEWS) == 0 and number < steps:
                self._preview(pipe, rows, step.x0)
        assert latents is not None, "a loop has at least one step"
        self._estimate, self._rows = None, []
        self._tell(jobs, "decoding")
        self._finish(pipe, rows, latents)

    def _finish(self, pipe: Pipeline, rows: Sequence[Row], latents: Tensor) -> None:
        """Decodes, and writes files meanwhile. The jobs that are complete are reported together."""
        written: list[tuple[Row, Future[StoredPicture]]] = []
        for row, own in zip(rows, latents, strict=True):
            self._look()
            if row.job.ended:
                continue
            try:
                image = pipe.finish(row.single, own[None])[0]
                origin = pipe.origin_of(row.single)
            except WordbrushError as error:
                self._end(row.job.job_id, Failed(row.job.job_id, problem_of(error)))
                continue
            written.append((row, self._pool.submit(self._stored, image, row, origin)))
            while written and written[0][1].done():
                self._painted(*written.pop(0))
        for row, future in written:
            self._painted(row, future)
        complete: list[Report] = []
        notes = () if pipe.codec.note is None else (pipe.codec.note,)
        for job in dict.fromkeys(row.job for row in rows):
            if not job.ended and len(job.painted) == job.request.pictures:
                job.ended = True
                del self._open[job.job_id]
                complete.append(Done(job.job_id, notes=(*job.notes, *notes)))
        if complete:
            self._send(tuple(complete))

    def _painted(self, row: Row, future: Future[StoredPicture]) -> None:
        try:
            picture = future.result()
        except (WordbrushError, OSError) as error:  # the disk is full
            if not row.job.ended:
                self._end(row.job.job_id, Failed(row.job.job_id, problem_of(error)))
            return
        if not row.job.ended:
            row.job.painted.add(row.index)
            self._send((Painted(row.job.job_id, picture),))

    def _stored(
        self, image: Image.Image, row: Row, origin: Origin, role: str = "picture", label: str | None = None
    ) -> StoredPicture:
        """Writes a picture's file."""
        data = png_bytes(image, PictureMetadata(request=row.single, origin=origin))
        return StoredPicture(
            sha256=self._files.add(data), index=row.index, width=image.width, height=image.height, bytes=len(data),
            role=role, label=label, seed=row.single.seed, request=row.single.to_dict(),
        )  # fmt: skip

    # --- what is said on the way ---

    def _tell(
        self, jobs: Sequence[Painting], phase: str = "painting", eta: Mapping[Painting, float] | None = None
    ) -> None:
        left = eta or {}
        told = tuple(Progressed(job.job_id, job.progress(phase, left.get(job))) for job in jobs if not job.ended)
        if told:
            self._send(told)

    def _preview(self, pipe: Pipeline, rows: Sequence[Row], estimate: Tensor) -> None:
        shown = [
            (row, own) for row, own in zip(rows, estimate, strict=True)
            if not row.job.ended and self._desk.watched(row.job.job_id)
        ]  # fmt: skip
        if shown:
            from wordbrush.editing.preview import preview_of

            preview = preview_of(pipe.codec)
            self._send(tuple(Previewed(row.job.job_id, row.index, preview.jpeg(own)) for row, own in shown))

    def _end(self, job_id: str, last: Report) -> None:
        """The last word on a job."""
        job = self._open.pop(job_id, None)
        if job is not None:
            job.ended = True
        if isinstance(last, Failed):
            logger.info("job %s failed (%s)", job_id, last.problem.kind)
        self._send((last,))

    # --- cancelling ---

    def _look(self, pipe: Pipeline | None = None) -> None:
        """Lets go of every job of the batch that is to be; its pictures in the loop are kept as they are, if asked."""
        for job_id in list(self._open):
            self._let_go(job_id, pipe)

    def _let_go(self, job_id: str, pipe: Pipeline | None = None) -> None:
        order = self._desk.cancelled(job_id)
        if order is None:
            return
        job = self._open[job_id]
        if job is not None and order.keep_partial and pipe is not None and self._estimate is not None:
            for row, estimate in zip(self._rows, self._estimate, strict=True):
                if row.job is job:
                    self._keep(pipe, row, estimate)
        self._end(job_id, Cancelled(job_id))

    def _keep(self, pipe: Pipeline, row: Row, estimate: Tensor) -> None:
        """Stores a picture as it stands."""
        label = f"step {row.job.step // max(1, len(row.job.rows))} of {row.job.steps}"
        request = row.single.model_copy(update={"upscale": None, "upscaler": None})
        try:
            image = pipe.finish(request, estimate[None])[0]
            picture = self._stored(image, row, pipe.origin_of(row.single), "partial", label)
        except WordbrushError as error:  # numbers that are not finite, or no room: it is let go all the same
            logger.info("job %s: no partial picture: %s", row.job.job_id, error)
            return
        self._send((Painted(row.job.job_id, picture),))


def _later(job: Painting, rows: Sequence[Row]) -> float:
    """How many loops like this one the rest of a job's pictures takes."""
    here = sum(row.job is job for row in rows)
    return max(0, job.request.pictures - len(job.painted) - here) / len(rows)
