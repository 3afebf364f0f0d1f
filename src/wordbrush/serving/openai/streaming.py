"""Pictures as they come: previews of the running loop, then the finished ones, as OpenAI's clients read them."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool

from wordbrush.errors import WordbrushError
from wordbrush.request import GenerationRequest
from wordbrush.serving import sse
from wordbrush.serving.errors import Refused
from wordbrush.serving.openai.errors import NO_RETRY, event_data, of_problem
from wordbrush.serving.openai.following import Following
from wordbrush.serving.openai.models import own_size
from wordbrush.serving.openai.parameters import Asked
from wordbrush.serving.openai.pictures import preview, text_of
from wordbrush.serving.openai.replies import StreamEvent, file_of, finished, usage_for
from wordbrush.serving.openai.sizes import Size
from wordbrush.serving.work import Caller, Event, Generate, Job, JobState, StoredPicture

if TYPE_CHECKING:
    from wordbrush.serving.server import Server

DONE = b"data: [DONE]\n\n"
_PREFIX = {"generations": "image_generation", "edits": "image_edit"}


@dataclass
class _Sent:
    """What was sent already, and how far the loop is.

    Attributes:
        partials: previews sent, by picture.
        pictures: which finished pictures were sent.
        fraction: of the loop, 0 to 1.
    """

    partials: dict[int, int] = field(default_factory=dict)
    pictures: set[int] = field(default_factory=set)
    fraction: float = 0.0


class PictureStream:
    """The events of one job, translated."""

    def __init__(self, server: Server, following: Following, asked: Asked, caller: Caller) -> None:
        self._server, self._following, self._asked, self._caller = server, following, asked, caller

    async def texts(self, job: Job) -> AsyncIterator[bytes]:
        """The text of the stream. The job is left to itself when it is closed before its end."""
        self._following.join(job.id)
        over = False
        try:
            async for text in self._translated(job):
                yield text
            over = True
        except WordbrushError as error:
            over = True
            yield _error(error)
        finally:
            self._following.leave(job.id, self._caller, delivered=over)

    async def _translated(self, job: Job) -> AsyncIterator[bytes]:
        sent = _Sent()
        async for event in await run_in_threadpool(self._server.jobs.events, job.id, self._caller):
            if event.type == "progress":
                sent.fraction = _fraction(event)
            elif event.type == "preview" and self._is_due(sent, event):
                yield await run_in_threadpool(self._partial, job, event, sent)
        ended = await run_in_threadpool(self._server.jobs.get, job.id, self._caller)
        if ended.state is not JobState.DONE:
            raise stopped(ended)
        for picture in finished(ended):
            yield await run_in_threadpool(self._completed, ended, picture)
        yield DONE

    def _is_due(self, sent: _Sent, event: Event) -> bool:
        """Previews are spread evenly: of three, at one sixth, half and five sixths of the loop, or soon after."""
        wanted = self._asked.partial_images
        so_far = sent.partials.get(int(event.data["index"]), 0)
        return so_far < wanted and sent.fraction >= (so_far + 0.5) / wanted

    def _partial(self, job: Job, event: Event, sent: _Sent) -> bytes:
        index = int(event.data["index"])
        number = sent.partials.get(index, 0)
        sent.partials[index] = number + 1
        assert isinstance(job.work, Generate)
        wanted = size_expected(job.work.request, self._server)
        picture, size = preview(base64.b64decode(event.data["data"]), wanted, self._asked.output)
        return self._text("partial_image", picture, size, index=index, partial_image_index=number)

    def _completed(self, job: Job, picture: StoredPicture) -> bytes:
        data = file_of(picture, self._asked, self._server)
        size = picture.width, picture.height
        usage, identifier = usage_for(job, self._server), self._asked.safety_identifier
        return self._text("completed", data, size, index=picture.index, usage=usage, safety_identifier=identifier)

    def _text(self, what: str, data: bytes, size: Size, **more: Any) -> bytes:
        kind = f"{_PREFIX[self._asked.endpoint]}.{what}"
        event = StreamEvent(
            type=kind,
            b64_json=text_of(data),
            created_at=int(time.time()),
            output_format=self._asked.output.format,  # type: ignore[arg-type]
            quality=self._asked.quality,  # type: ignore[arg-type]
            size=f"{size[0]}x{size[1]}",
            **more,
        )
        return sse.event_text(event.model_dump(exclude_none=True), event=kind)


def stopped(job: Job) -> Refused:
    """What a client is told of a job that ended without being done."""
    if job.state is JobState.FAILED:
        return of_problem(job.problem)
    if job.state is JobState.CANCELLED:
        return Refused(409, "cancelled", "the job was cancelled before its pictures were finished", NO_RETRY)
    return Refused(503, "closing", "the server is ending; the job goes on when it is back", {"Retry-After": "5"})


def _error(error: Exception) -> bytes:
    return f"event: error\ndata: {event_data(error)}\n\n".encode()


def _fraction(event: Event) -> float:
    steps = event.data.get("steps") or 0
    return min(1.0, event.data.get("step", 0) / steps) if steps else 0.0


def size_expected(request: GenerationRequest, server: Server) -> Size | None:
    """The size of the finished pictures, as far as the request says it; None where the worker decides, or where what
    is painted is only a part of it."""
    if request.only_masked or request.extend is not None or request.preset is not None:
        return None
    size: Size | None = None
    if request.width is not None and request.height is not None:
        size = request.width, request.height
    elif request.image is not None and request.image.sha256 is not None:
        size = server.store.inputs.image(request.image.sha256).size
    elif request.width is None and request.height is None:
        size = own_size(request.model, server)
    if size is None:
        return None
    scale = (1.0 if request.hires is None else request.hires.scale) * (request.upscale or 1.0)
    return round(size[0] * scale), round(size[1] * scale)
