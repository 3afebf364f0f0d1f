"""What the queue refuses, each with one sentence for the client."""

from __future__ import annotations

from wordbrush.errors import WordbrushError


class NoSuchJob(WordbrushError, LookupError):
    """There is no job of that id, or it is another caller's (HTTP 404)."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"there is no job {job_id[:80]!r}; it may have been deleted, or belong to another key")


class NotAllowed(WordbrushError):
    """Only an administrator's key may do that (HTTP 403)."""


class WrongState(WordbrushError):
    """The job is there, but has come too far, or not far enough, for that (HTTP 409)."""


class IdempotencyConflict(WordbrushError):
    """The idempotency key, or the job's id, was used before for something else (HTTP 409)."""


class QueueFull(WordbrushError):
    """As many jobs wait as may, of all or of this caller's (HTTP 429).

    Attributes:
        retry_after: whole seconds after which there is likely room again.
    """

    def __init__(self, limit: int, retry_after: int, *, own: bool = False) -> None:
        said = f"your key has {limit} jobs that wait or run" if own else f"the queue is full: {limit} jobs wait already"
        super().__init__(f"{said}; try again in {retry_after} s")
        self.retry_after = retry_after
