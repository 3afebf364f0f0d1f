"""The API of AUTOMATIC1111's web UI, for the clients that speak it: /sdapi/v1 and a little of /internal.

fields.py     the bodies, by the web UI's names
names.py      its names of samplers, schedules and upscalers, and ours
requests.py   a call as our own requests, one for each job; hires.py: the second loop; pictures.py: resizing and masks
refused.py    what the web UI can do and this server cannot
options.py    what a caller has set
tasks.py      calls under way
painting.py   txt2img and img2img; answers.py: what they answer
extras.py     enlarging, png-info (pnginfo.py), interrogate
progress.py   progress, interrupt, skip
lists.py      what there is
settings.py   options, flags; memory.py

See "Clients of the A1111 web UI" in docs/serving.md for where it differs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter

from wordbrush.serving.sdapi import extras, lists, painting, progress, settings
from wordbrush.serving.sdapi.tasks import Tasks

if TYPE_CHECKING:
    from wordbrush.serving.server import Server


def router(server: Server) -> APIRouter:
    """All routes, with their whole paths."""
    tasks = Tasks(server.jobs)
    routes = APIRouter()
    for part in (
        painting.router(server, tasks), extras.router(server, tasks), progress.router(server, tasks),
        lists.router(server), settings.router(server),
    ):  # fmt: skip
        routes.include_router(part)
    return routes
