"""Our own API: /v1/jobs, /v1/queue, /v1/images, /v1/models and what else there is by name.

jobs.py    jobs: asked for, listed, followed, cancelled, moved
queue.py   the queue as a whole
images.py  pictures by their hash: sent in, looked at
names.py   models, LoRAs, samplers …; how many tokens a prompt has
bodies.py  JSON bodies;  schemas.py  how the documentation describes them;  shapes.py  the answers
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter

if TYPE_CHECKING:
    from wordbrush.serving.server import Server


def router(server: Server) -> APIRouter:
    """All of its routes; each has its whole path itself, which is what metrics call it."""
    from wordbrush.serving.native import images, jobs, names, queue

    routes = APIRouter()
    for part in (jobs, queue, images, names):
        routes.include_router(part.router(server))
    return routes
