"""The one door in: whatever is asked, by any API or the studio, becomes a job here."""

from __future__ import annotations

import secrets
from functools import partial
from typing import TYPE_CHECKING

import structlog
from starlette.concurrency import run_in_threadpool

from wordbrush.errors import RequestError
from wordbrush.inputs import InputPicture
from wordbrush.serving import limits
from wordbrush.serving.errors import Refused
from wordbrush.serving.work import AnyWork, Caller, Describe, Explain, Generate, Job, Upscale

if TYPE_CHECKING:
    from wordbrush.serving.server import Server

log = structlog.get_logger("wordbrush.serving")

LARGEST_DRAWN = 2**32
"""Seeds are drawn below this, as everywhere in the field."""


def ask(
    server: Server,
    work: AnyWork,
    caller: Caller,
    *,
    source: str,
    priority: int = 0,
    idempotency_key: str | None = None,
    job_id: str | None = None,
) -> Job:
    """Puts work into the queue. Blocks for the database; `ask_async` does not.

    A seed that is not given is drawn here, so that the job run again gives the same pictures.

    Args:
        source: the door, "v1", "openai", "sdapi" or "studio".
        priority: higher is earlier.
        idempotency_key: with the same one, the same work is the same job.
        job_id: chosen by the client, where its API lets it.

    Raises:
        RequestError: a name in it is not in the catalogue, a picture is not here, or it is larger than is allowed.
        QueueFull: too many wait.
        IdempotencyConflict: the key was used for other work.
        Refused: the server is ending (503).
    """
    if server.closing:
        raise Refused(503, "closing", "the server is ending; ask again in a moment", {"Retry-After": "5"})
    limits.check_words(work)
    asked = _with_inputs(server, work)
    work = server.catalogue.checked(_seeded(asked))
    limits.check(server, work)
    job = server.jobs.submit(
        work, caller, source=source, priority=priority, idempotency_key=idempotency_key, job_id=job_id, asked=asked
    )
    log.info("job asked for", job=job.id, kind=work.kind, source=source, key=caller.name, work=repr(work))
    return job


async def ask_async(
    server: Server,
    work: AnyWork,
    caller: Caller,
    *,
    source: str,
    priority: int = 0,
    idempotency_key: str | None = None,
    job_id: str | None = None,
) -> Job:
    """`ask` in a thread of its own."""
    call = partial(
        ask, server, work, caller, source=source, priority=priority, idempotency_key=idempotency_key, job_id=job_id
    )
    return await run_in_threadpool(call)


def _seeded(work: AnyWork) -> AnyWork:
    if not isinstance(work, Generate | Explain):
        return work
    request = work.request
    wanted = {"seed": True, "variation_seed": bool(request.variation_strength)}
    drawn = {
        name: secrets.randbelow(LARGEST_DRAWN)
        for name, is_wanted in wanted.items()
        if is_wanted and getattr(request, name) is None
    }
    return work.model_copy(update={"request": request.model_copy(update=drawn)}) if drawn else work


def _with_inputs(
    server: Server, work: AnyWork
) -> AnyWork:
    """The work with every picture that it brings kept in the store and named by its hash alone."""
    if isinstance(work, Upscale):
        return work.model_copy(update={"images": tuple(_kept(server, image) for image in work.images)})
    if isinstance(work, Describe):
        return work.model_copy(update={"image": _kept(server, work.image)})
    request, kept = work.request, {}
    for name in ("image", "mask"):
        value = getattr(request, name)
        if isinstance(value, InputPicture):
            kept[name] = _kept(server, value)
    return work.model_copy(update={"request": request.model_copy(update=kept)}) if kept else work


def _kept(server: Server, given: InputPicture) -> InputPicture:
    if given.picture is not None:
        return server.store.inputs.put(given.picture)
    if given.path is not None or given.sha256 is None:
        raise RequestError("a picture is given as base64, or by the sha256 of one that was uploaded, not by a path")
    if not server.store.inputs.has(given.sha256):
        raise RequestError(f"there is no picture with sha256 {given.sha256[:80]!r}; upload it to /v1/images first")
    return given
