"""What the server and a worker say to each other: pickled over a pipe that only the two of them hold.

A worker gets one `Batch` at a time and answers with many `Reports`; the last of a batch is its `Finished`. Every job of
it ends with exactly one of `Done`, `Failed` and `Cancelled`. Between, the server may send `Cancel`, `Watch` and others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wordbrush.serving.settings import Settings
from wordbrush.serving.work import AnyWork, Problem, Progress, StoredPicture

# --- what a worker is when it begins ---


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How a worker shall work.

    Attributes:
        name: of the worker, for logs.
        number: from 0; decides which of several GPUs it works on.
        data: the server's data folder, where pictures go and inputs are.
        device, dtype: as `wordbrush.load`.
        threads: of torch on the CPU; None leaves it to torch.
        batch: most pictures in one loop.
        cache_bytes: what the models may take together; None is half of what the device has.
        preload: models opened before the first job.
        settings: the server's, for how the log is written; None leaves the log as it is.
    """

    name: str
    data: Path
    number: int = 0
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    batch: int = 16
    cache_bytes: int | None = None
    preload: tuple[str, ...] = ()
    settings: Settings | None = None


# --- to a worker ---


@dataclass(frozen=True, kw_only=True)
class Task:
    """One job to do. watched: whether somebody looks on, so that previews pay."""

    job_id: str
    work: AnyWork
    watched: bool = False


@dataclass(frozen=True)
class Batch:
    """Jobs to do together, or in turn where they do not agree."""

    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class Cancel:
    """Let a job go, within one step. keep_partial: store its pictures as they stand."""

    job_id: str
    keep_partial: bool = False


@dataclass(frozen=True)
class Watch:
    """Somebody looks on, or nobody does any more."""

    job_id: str
    watched: bool


@dataclass(frozen=True)
class DropModels:
    """Forget all models, once the batch is finished."""


@dataclass(frozen=True)
class Stop:
    """End, once the batch is finished."""


# --- from a worker ---


@dataclass(frozen=True, kw_only=True)
class State:
    """What a worker has; sent when it is ready, and after every batch.

    Attributes:
        device: in words.
        models: name -> bytes of its weights, with those of copies made to run fast.
        memory: bytes that the process takes: resident, or on a GPU what torch holds there.
    """

    device: str
    models: dict[str, int]
    memory: int


@dataclass(frozen=True)
class Progressed:
    """A job came forward."""

    job_id: str
    progress: Progress


@dataclass(frozen=True)
class Previewed:
    """A small JPEG of a picture as it stands."""

    job_id: str
    index: int
    jpeg: bytes


@dataclass(frozen=True)
class Painted:
    """A picture that is in its file already."""

    job_id: str
    picture: StoredPicture


@dataclass(frozen=True)
class Done:
    """All of a job is finished."""

    job_id: str
    output: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failed:
    """A job cannot be finished."""

    job_id: str
    problem: Problem


@dataclass(frozen=True)
class Cancelled:
    """A job was let go."""

    job_id: str


@dataclass(frozen=True)
class Finished:
    """The batch is finished, or given back with `Stop`; the worker waits for the next one."""

    state: State


@dataclass(frozen=True)
class Dropped:
    """The models are forgotten."""

    state: State


@dataclass(frozen=True)
class Ready:
    """The worker has begun."""

    state: State


@dataclass(frozen=True)
class Unfit:
    """The worker cannot begin, and ends: there is no such device, say."""

    message: str


Report = Progressed | Previewed | Painted | Done | Failed | Cancelled | Finished | Dropped | Ready | Unfit
Reports = tuple[Report, ...]
Order = Batch | Cancel | Watch | DropModels | Stop
