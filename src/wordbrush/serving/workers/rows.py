"""A job's pictures while they are painted: how far they are, who looks on, and what became of them."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from wordbrush.conditioning.prompt.program import PromptProgram
from wordbrush.editing.joined import agreement
from wordbrush.errors import RequestError
from wordbrush.inputs import InputPicture
from wordbrush.request import GenerationRequest
from wordbrush.serving.store.files import InputFiles
from wordbrush.serving.work import Progress
from wordbrush.serving.workers.protocol import Cancel


class Desk:
    """What the server says of the jobs of a batch while it is painted; the listener writes, the painter reads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: set[str] = set()
        self._cancelled: dict[str, Cancel] = {}
        self._watched: set[str] = set()

    def begin(self, job_ids: list[str], watched: set[str]) -> None:
        """A batch came in."""
        with self._lock:
            self._jobs, self._cancelled, self._watched = set(job_ids), {}, set(watched)

    def cancel(self, order: Cancel) -> None:
        """A job is to be let go; nothing happens if it is not of this batch."""
        with self._lock:
            if order.job_id in self._jobs:
                self._cancelled[order.job_id] = order

    def watch(self, job_id: str, *, watched: bool) -> None:
        """Somebody looks on, or nobody."""
        with self._lock:
            (self._watched.add if watched else self._watched.discard)(job_id)

    def cancelled(self, job_id: str) -> Cancel | None:
        """How a job is to be let go, if it is."""
        with self._lock:
            return self._cancelled.get(job_id)

    def watched(self, job_id: str) -> bool:
        """Whether somebody looks on."""
        with self._lock:
            return job_id in self._watched


@dataclass(eq=False)
class Painting:
    """A job of pictures from a request.

    Attributes:
        request: filled in.
        steps: of one picture, in all its loops.
        step: steps done, of all its pictures.
        painted: the indices of its pictures that are in their files.
        ended: whether its last word has been said.
    """

    job_id: str
    request: GenerationRequest
    steps: int
    notes: tuple[str, ...] = ()
    step: int = 0
    painted: set[int] = field(default_factory=set)
    ended: bool = False
    _agreements: dict[str, str] = field(default_factory=dict)

    @cached_property
    def rows(self) -> list[Row]:
        """Its pictures."""
        return [Row(self, index) for index in range(self.request.pictures)]

    def progress(self, phase: str = "painting", eta: float | None = None) -> Progress:
        """How far it is."""
        pictures = self.request.pictures
        return Progress(
            step=self.step, steps=self.steps * pictures, picture=len(self.painted), pictures=pictures, phase=phase,
            eta=None if eta is None else round(eta, 2),
        )  # fmt: skip

    def agreement(self, index: int) -> str:
        """Equal for pictures, of any jobs, that one loop can paint."""
        loras = str(PromptProgram.parse(self.request.prompts[index]).loras)  # all else its pictures share
        if loras not in self._agreements:
            self._agreements[loras] = agreement(self.request.part(index, index + 1))
        return self._agreements[loras]


@dataclass(eq=False)
class Row:
    """One picture of a job."""

    job: Painting
    index: int

    @cached_property
    def single(self) -> GenerationRequest:
        """Its own request."""
        return self.job.request.part(self.index, self.index + 1)


def with_inputs(request: GenerationRequest, inputs: InputFiles) -> GenerationRequest:
    """A request whose pictures, known by their hashes, are at hand. Raises `RequestError` when one is not there."""
    found: dict[str, Any] = {}
    for name in ("image", "mask"):
        value = getattr(request, name)
        if isinstance(value, InputPicture) and value.picture is None:
            if value.path is not None or value.sha256 is None:
                raise RequestError(f"{name} is no picture that was uploaded; send the picture itself")
            found[name] = replace(value, picture=inputs.image(value.sha256))
    return request.model_copy(update=found) if found else request
