"""What the native API answers with, for its documentation and for whoever reads the answers."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from wordbrush.serving.work import JobState

Source = Literal["v1", "openai", "sdapi", "studio"]
Kind = Literal["generate", "upscale", "explain", "describe"]
SHA256 = Field(pattern="^[0-9a-f]{64}$")


class PictureAnswer(BaseModel):
    """A finished picture of a job."""

    sha256: str = SHA256
    """Of the file's bytes."""
    url: str
    """Where it lies."""
    index: int
    """Its place among the pictures of the same role, from 0."""
    role: str
    """"picture"; "partial" of a job that was cancelled on the way; "frame" and "attention" of an explained one."""
    label: str | None
    width: int
    height: int
    bytes: int
    seed: int | None
    request: dict[str, Any] | None
    """Of this picture alone, every default filled in; sent to /v1/jobs it gives the same pixels."""


class ProgressAnswer(BaseModel):
    """How far a running job is."""

    step: int
    steps: int
    picture: int
    pictures: int
    eta: float | None
    """Seconds left."""
    phase: str
    fraction: float
    """0 to 1."""


class ProblemAnswer(BaseModel):
    """Why a job failed."""

    kind: str
    message: str


class JobAnswer(BaseModel):
    """A job as it is now."""

    id: str
    state: JobState
    work: dict[str, Any]
    """What is to be done: `kind`, and for generate and explain the `request`, with the seed that was drawn."""
    owner: str
    """The id of the key that asked; "local" without keys."""
    source: Source
    priority: int
    created: datetime
    started: datetime | None
    finished: datetime | None
    attempts: int
    position: int | None
    """0 is next; null when it does not wait."""
    progress: ProgressAnswer | None
    problem: ProblemAnswer | None
    notes: list[str]
    """What a user should know, one sentence each."""
    output: dict[str, Any]
    """What is not a picture: of describe {"caption": …}, of explain the tokens."""
    pictures: list[PictureAnswer]


class JobsAnswer(BaseModel):
    """A page of the history."""

    jobs: list[JobAnswer]
    next_cursor: str | None
    """Give it as `cursor` for the next page; null on the last one."""
    total: int
    """Jobs that fit the filters, on all pages."""


class WorkerAnswer(BaseModel):
    """A process that paints."""

    pid: int | None
    state: str
    device: str | None
    """In words; null while the worker starts."""
    models: dict[str, int]
    """The models it keeps, and how many bytes each takes."""
    memory: int
    """Bytes that the process takes."""
    jobs: list[str]


class QueueAnswer(BaseModel):
    """The queue and who works on it."""

    paused: bool
    queued: int
    running: int
    limit: int
    states: dict[str, int]
    """Jobs in the database, by state."""
    pictures_waiting: int
    pictures_per_second: float
    """Of the last minute."""
    waiting: list[str]
    """The ids of the caller's jobs that wait, of an admin everybody's, in their order."""
    workers: list[WorkerAnswer]


class UploadAnswer(BaseModel):
    """A picture that was sent, as it is kept: its pixels alone, as PNG."""

    sha256: str = SHA256
    """Of its pixels: what stands in a request, as {"sha256": …}."""
    url: str
    width: int
    height: int


class ImageAnswer(BaseModel):
    """What is known of a picture."""

    sha256: str = SHA256
    url: str
    kind: Literal["picture", "input"]
    """Whether it was painted here or sent by a client."""
    width: int
    height: int
    bytes: int | None
    picture: PictureAnswer | None


def picture_url(base: str, sha256: str, suffix: str = "png") -> str:
    """Where a picture lies. base: `settings.public_url`, or "" for an address on this server."""
    return f"{base}/v1/images/{sha256}.{suffix}"


def with_urls(data: dict[str, Any], base: str) -> dict[str, Any]:
    """A job's JSON, its pictures with their addresses."""
    pictures = [{**picture, "url": picture_url(base, picture["sha256"])} for picture in data["pictures"]]
    return {**data, "pictures": pictures}
