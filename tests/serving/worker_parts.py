"""A worker's painter in the test's own process, with a tiny model that the library knows as "tiny"."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from wordbrush.request import GenerationRequest
from wordbrush.serving.catalogue import Catalogue
from wordbrush.serving.store.files import InputFiles, PictureFiles
from wordbrush.serving.work import Generate, Progress, StoredPicture
from wordbrush.serving.workers.models import Models
from wordbrush.serving.workers.painter import Painter
from wordbrush.serving.workers.protocol import (
    Cancel,
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
from wordbrush.serving.workers.rows import Desk

PROMPT = "a fox on a blue background"


def library(folder: Path, model: Path, *names: str) -> Path:
    """A library with copies of a model under these names; the variable WORDBRUSH_MODELS is to name it."""
    for name in names:
        shutil.copytree(model, folder / name)
    return folder


def work(prompt: Any = PROMPT, *, seed: int = 1, model: str = "tiny", **fields: Any) -> Generate:
    return Generate(request=GenerationRequest.from_dict({"prompt": prompt, "seed": seed, "model": model, **fields}))


@dataclass
class Bench:
    """A painter, and what it said."""

    data: Path
    most_bytes: int = 1 << 30
    batch: int = 16
    desk: Desk = field(default_factory=Desk)
    said: list[Report] = field(default_factory=list)
    heard: Callable[[Report], object] = lambda report: None

    def __post_init__(self) -> None:
        self.models = Models("cpu", "float32", self.most_bytes)
        setup = Setup(name="one", data=self.data, device="cpu", dtype="float32", batch=self.batch)
        self.painter = Painter(setup, self.models, Catalogue(), self.desk, self._hear)
        self.files, self.inputs = PictureFiles(self.data), InputFiles(self.data)

    def _hear(self, reports: Reports) -> None:
        for report in reports:
            self.said.append(report)
            self.heard(report)

    def do(self, *works: Any, watched: bool = False) -> None:
        """Does works as the jobs "0", "1" … of one batch."""
        self.said.clear()
        tasks = [Task(job_id=str(number), work=one, watched=watched) for number, one in enumerate(works)]
        self.desk.begin([task.job_id for task in tasks], {task.job_id for task in tasks if watched})
        self.painter.do(tasks)
        last = [report for report in self.said if isinstance(report, Done | Failed | Cancelled)]
        assert sorted(report.job_id for report in last) == sorted(task.job_id for task in tasks), last

    def cancel_at(self, job_id: str, step: int, *, keep_partial: bool = False) -> None:
        """Cancels a job as soon as it has said that it took so many steps."""

        def hear(report: Report) -> None:
            if isinstance(report, Progressed) and report.job_id == job_id and report.progress.step >= step:
                self.desk.cancel(Cancel(job_id, keep_partial))

        self.heard = hear

    def last(self, job_id: str) -> Done | Failed | Cancelled:
        (found,) = (one for one in self.said if isinstance(one, Done | Failed | Cancelled) and one.job_id == job_id)
        return found

    def pictures(self, job_id: str) -> list[StoredPicture]:
        found = [report.picture for report in self.said if isinstance(report, Painted) and report.job_id == job_id]
        return sorted(found, key=lambda picture: (picture.role, picture.index))

    def images(self, job_id: str) -> list[bytes]:
        return [self.open(picture).tobytes() for picture in self.pictures(job_id)]

    def open(self, picture: StoredPicture) -> Image.Image:
        path = self.files.path(picture.sha256)
        assert path is not None
        with Image.open(path) as image:
            image.load()
        return image

    def progress(self, job_id: str) -> list[Progress]:
        return [one.progress for one in self.said if isinstance(one, Progressed) and one.job_id == job_id]

    def previews(self, job_id: str) -> list[Previewed]:
        return [one for one in self.said if isinstance(one, Previewed) and one.job_id == job_id]
