"""Who sits at the page, and which of their jobs run: what a closed tab stops."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wordbrush.serving.errors import Refused
from wordbrush.serving.guard.caller import remembered
from wordbrush.serving.work import Caller

if TYPE_CHECKING:
    import gradio as gr


def caller_of(request: gr.Request) -> Caller:
    """Who calls a handler: whom the guard found for this very call. Raises `Refused` for nobody."""
    inner = request.request
    found = remembered(inner.scope) if inner is not None else None
    if found is None:
        raise Refused(401, "unauthorized", "your session has ended; load the page again and log in")
    return found


@dataclass
class Seat:
    """One open page.

    Attributes:
        jobs: id -> which button started it ("create", "live", "edit" …), while it runs.
        newest: number of the latest text that was typed, of those that paint as one types; seed: theirs.
        sent: page -> number of the picture that was sent there last.
    """

    jobs: dict[str, str] = field(default_factory=dict)
    newest: int = 0
    sent: dict[str, float] = field(default_factory=dict)
    seed: int | None = None

    def is_news(self, page: str, given: dict[str, Any] | None) -> bool:
        """Whether a picture was sent to a page just now.

        Gradio says that a state has changed whenever an event could have changed it.
        """
        return given is not None and self.sent.get(page) != given["n"]


class Seats:
    """The open pages, by Gradio's session hash; thread-safe."""

    def __init__(self) -> None:
        self._seats: dict[str, Seat] = {}
        self._lock = threading.Lock()

    def of(self, request: gr.Request) -> Seat:
        """The page that a handler was called from."""
        with self._lock:
            return self._seats.setdefault(request.session_hash or "", Seat())

    def leave(self, request: gr.Request) -> list[str]:
        """Forgets a page that was closed; returns the ids of the jobs it was waiting for."""
        with self._lock:
            seat = self._seats.pop(request.session_hash or "", Seat())
        return list(seat.jobs)
