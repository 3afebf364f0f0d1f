"""What is told of an error."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from wordbrush.errors import ModelFileError, RequestError, WorkFailed
from wordbrush.serving.places import without_places
from wordbrush.serving.work import Problem

logger = logging.getLogger(__name__)

OUT_OF_MEMORY = (MemoryError, torch.OutOfMemoryError)

_SHORT = "there is not enough memory for pictures of this size; ask for smaller ones"

# What torch says on a CPU, as a plain RuntimeError.
_ALLOCATOR = "not enough memory"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a GPU or beside it."""
    return isinstance(error, OUT_OF_MEMORY) or (isinstance(error, RuntimeError) and _ALLOCATOR in str(error))


def problem_of(error: Exception) -> Problem:
    """One sentence for whoever asked, who is not told where files lie; one that nobody foresaw is logged in full."""
    found = _problem_of(error)
    return Problem(kind=found.kind, message=without_places(found.message, Path.cwd().parent))  # the data folder


def _problem_of(error: Exception) -> Problem:
    if is_out_of_memory(error):
        return Problem(kind="work", message=_SHORT)
    if isinstance(error, RequestError):
        return Problem(kind="request", message=str(error))
    if isinstance(error, ModelFileError):
        return Problem(kind="model", message=str(error))
    if isinstance(error, WorkFailed):
        return Problem(kind="work", message=str(error))
    logger.error("unforeseen", exc_info=error)
    said = " ".join(f"{type(error).__name__}: {error}".split())
    return Problem(kind="work", message=f"something unforeseen went wrong ({said[:200]}); the server's log says where")


@dataclass
class Attempt:
    """How something went.

    Attributes:
        problem: None where it went well.
        short: whether memory ran out.
    """

    problem: Problem | None = None
    short: bool = False


@contextlib.contextmanager
def attempt() -> Iterator[Attempt]:
    """Whatever goes wrong inside becomes the problem of the jobs that it was for. The error itself is let go.

    Its frames would hold what was being computed, just when memory may be short.
    """
    going = Attempt()
    try:
        yield going
    except Exception as error:  # noqa: BLE001  a worker outlives every error of a job
        going.problem, going.short = problem_of(error), is_out_of_memory(error)
