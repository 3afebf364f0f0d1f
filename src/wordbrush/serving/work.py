"""What a job is: the work asked for, the states it goes through, its pictures, and what it tells on the way.

Everything in the server speaks in these types: the APIs make one of what a client asks, the queue keeps it, a
worker does it. None of them is a path: a client's pictures are known by the SHA-256 of their pixels (`store.inputs`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from wordbrush.request import GenerationRequest
from wordbrush.request_fields import Picture as InputPicture


class JobState(StrEnum):
    """queued → running → done, failed or cancelled; running → queued when the server was ended meanwhile."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


class _Work(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Generate(_Work):
    """Paint pictures. The request has a seed: it was drawn when the job came in, so a job run again gives the same."""

    kind: Literal["generate"] = "generate"
    request: GenerationRequest


class Upscale(_Work):
    """Enlarge pictures that are there: by `scale`, or to fit `width` by `height` (cut to it with `crop`)."""

    kind: Literal["upscale"] = "upscale"
    images: tuple[InputPicture, ...] = Field(min_length=1, max_length=64)
    scale: float | None = Field(default=None, ge=1, le=8)
    width: int | None = Field(default=None, ge=1, le=16384)
    height: int | None = Field(default=None, ge=1, le=16384)
    crop: bool = False
    upscaler: str | None = None
    """By name; None is the one that ships. "lanczos" and "nearest" are Pillow's own."""


class Explain(_Work):
    """Paint one picture and keep the way there: frames of the trajectory, and where each word acts."""

    kind: Literal["explain"] = "explain"
    request: GenerationRequest
    columns: int = Field(default=8, ge=2, le=32)


class Describe(_Work):
    """Say in words what a picture shows, by a CLIP."""

    kind: Literal["describe"] = "describe"
    image: InputPicture
    model: str | None = None


AnyWork = Generate | Upscale | Explain | Describe


@dataclass(frozen=True, kw_only=True)
class StoredPicture:
    """A finished picture of a job.

    Attributes:
        sha256: of the file's bytes; the file is `store.pictures.path(sha256)`, and its URL /v1/images/{sha256}.png.
        index: place among the job's pictures, from 0.
        role: "picture"; "partial" when the job was cancelled on the way; "frame" and "attention" of an explained one.
        label: what a frame or map shows, such as "t = 640" or a word.
        seed: its own; None where none was used.
        request: of this picture alone, every default filled in, as JSON; None where it was not painted from one.
    """

    sha256: str
    index: int
    width: int
    height: int
    bytes: int
    role: str = "picture"
    label: str | None = None
    seed: int | None = None
    request: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why a job failed.

    Attributes:
        kind: "request" (the client's, 422), "model" (a model file), "work" (the painting), "crash" (a worker ended).
        message: one sentence.
    """

    kind: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a running job is.

    Attributes:
        step: steps done, over all of the job's pictures; steps: of how many.
        picture: pictures finished; pictures: of how many.
        eta: seconds left, if known.
        phase: "loading" (the model), "painting", "decoding".
    """

    step: int = 0
    steps: int = 0
    picture: int = 0
    pictures: int = 1
    eta: float | None = None
    phase: str = "painting"

    @property
    def fraction(self) -> float:
        """0 to 1."""
        return min(1.0, self.step / self.steps) if self.steps else 0.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job as it is at one moment; a value, not a handle.

    Attributes:
        id: sortable by time (UUID version 7).
        owner: the id of the key that asked; "local" where no keys are used.
        source: which door it came through: "v1", "openai", "sdapi", "studio".
        position: 0 is next, counted over the whole queue; None unless queued.
        output: what is neither picture nor note: of `Describe` {"caption": …}, of `Explain` the tokens.
    """

    id: str
    work: AnyWork
    state: JobState
    owner: str
    source: str
    priority: int = 0
    created: datetime
    started: datetime | None = None
    finished: datetime | None = None
    attempts: int = 0
    position: int | None = None
    progress: Progress | None = None
    problem: Problem | None = None
    notes: tuple[str, ...] = ()
    output: dict[str, Any] = field(default_factory=dict)
    pictures: tuple[StoredPicture, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to a job, as its subscribers hear it.

    Attributes:
        id: rising within the job; what `Last-Event-ID` carries.
        type: "state" (data: the whole job as JSON; also the first event of every new subscription), "position",
            "progress" (`Progress`), "preview" ({"index", "mime", "data": base64}), "picture" (`StoredPicture`).
    """

    id: int
    type: str
    data: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who calls.

    Attributes:
        id: the key's id, or "local".
        admin: may see and change other callers' jobs, pause the queue, and drop models.
    """

    id: str = "local"
    name: str = "local"
    admin: bool = True


LOCAL = Caller()
