"""The answers, as OpenAI's clients read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from wordbrush.errors import WorkFailed
from wordbrush.serving.native.shapes import picture_url
from wordbrush.serving.openai.parameters import Asked
from wordbrush.serving.openai.pictures import encoded, text_of
from wordbrush.serving.openai.usage import Usage, usage_of
from wordbrush.serving.work import Generate, Job, StoredPicture

if TYPE_CHECKING:
    from wordbrush.serving.server import Server

ENDINGS = {"png": "png", "jpeg": "jpg", "webp": "webp"}


class Picture(BaseModel):
    """One finished picture: its bytes in base64, or its address."""

    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str | None = None
    """What was painted, where alternatives, styles or an expansion made something else of the prompt."""


class Images(BaseModel):
    """The answer with finished pictures; fields that say nothing are left out."""

    created: int
    """Seconds since 1970."""
    data: list[Picture]
    background: Literal["opaque"] = "opaque"
    output_format: Literal["png", "jpeg", "webp"]
    quality: Literal["low", "medium", "high"]
    size: str
    """Of the first picture."""
    usage: Usage
    safety_identifier: str | None = None


class ErrorDetails(BaseModel):
    """What was wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorReply(BaseModel):
    """The answer where there are no pictures; the clients raise it as a typed exception."""

    error: ErrorDetails


class StreamEvent(BaseModel):
    """The data of one event of a stream."""

    model_config = ConfigDict(extra="forbid")

    type: str
    b64_json: str
    background: Literal["opaque"] = "opaque"
    created_at: int
    output_format: Literal["png", "jpeg", "webp"]
    quality: Literal["low", "medium", "high"]
    size: str
    index: int = Field(default=0)
    """Which of `n` pictures; beside what OpenAI sends."""
    partial_image_index: int | None = None
    usage: Usage | None = None
    safety_identifier: str | None = None


def images_of(jobs: list[Job], asked: Asked, server: Server, base: str) -> Images:
    """The answer of finished jobs. Blocks: it reads and converts pictures.

    base: what addresses of pictures begin with.
    """
    painted = [(job, picture) for job in jobs for picture in finished(job)]
    if not painted:
        raise WorkFailed("the job ended without a picture")
    first = painted[0][1]
    return Images(
        created=int((jobs[-1].finished or jobs[-1].created).timestamp()),
        data=[_picture(job, picture, asked, server, base) for job, picture in painted],
        output_format=asked.output.format,  # type: ignore[arg-type]
        quality=asked.quality,  # type: ignore[arg-type]
        size=f"{first.width}x{first.height}",
        usage=usage_for(jobs[0], server),
        safety_identifier=asked.safety_identifier,
    )


def finished(job: Job) -> list[StoredPicture]:
    """The finished pictures of a job, in order."""
    return sorted((p for p in job.pictures if p.role == "picture"), key=lambda p: p.index)


def usage_for(job: Job, server: Server) -> Usage:
    """The tokens of a job's texts."""
    assert isinstance(job.work, Generate)
    request = job.work.request
    prompts = [request.prompt] if isinstance(request.prompt, str) else list(request.prompt)
    return usage_of([*prompts, *filter(None, [request.negative_prompt])], request.model, server)


def file_of(picture: StoredPicture, asked: Asked, server: Server) -> bytes:
    """A finished picture's file in the wanted format. Blocks."""
    return encoded(server.store.pictures.read(picture.sha256), asked.output)


def _picture(job: Job, picture: StoredPicture, asked: Asked, server: Server, base: str) -> Picture:
    revised = _revised(job, picture)
    if asked.output.as_url:
        ending = ENDINGS[asked.output.format]
        query = server.signatures.sign(picture.sha256)
        if ending != "png":
            query = f"quality={max(1, asked.output.quality)}&{query}"
        address = f"{picture_url(base, picture.sha256, ending)}?{query}"
        return Picture(url=address, revised_prompt=revised)
    return Picture(b64_json=text_of(file_of(picture, asked, server)), revised_prompt=revised)


def _revised(job: Job, picture: StoredPicture) -> str | None:
    """The prompt that was painted, where it is not the one that was asked for."""
    assert isinstance(job.work, Generate)
    painted = (picture.request or {}).get("prompt")
    asked = job.work.request.prompts
    return painted if isinstance(painted, str) and painted not in asked else None
