"""What is set and what the server is: options, flags, memory, and the page's own small questions."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool

from wordbrush import __version__
from wordbrush.errors import RequestError
from wordbrush.formats.library import VAE as VAE_KIND
from wordbrush.serving.errors import Refused
from wordbrush.serving.sdapi.errors import ANSWERS
from wordbrush.serving.sdapi.memory import memory_of
from wordbrush.serving.sdapi.options import DEFAULTS, MODEL, MOST_OPTIONS, VAE, checked_options, request_fields
from wordbrush.serving.sdapi.painting import KNOWN, Who
from wordbrush.serving.work import Caller

if TYPE_CHECKING:
    from wordbrush.serving.server import Server

Answer = dict[str, Any]


def router(server: Server) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["web UI"], responses=ANSWERS)

    @routes.get("/sdapi/v1/options", summary="My options", name="sdapi_options")
    def options(who: Who) -> Answer:
        return options_of(server, who)

    @routes.post("/sdapi/v1/options", summary="Set options of mine, and nobody else's", name="sdapi_set_options")
    def set_options(given: Answer, who: Who) -> None:
        keep_options(server, who, given)

    @routes.get("/sdapi/v1/cmd-flags", summary="How the server was started", name="sdapi_cmd_flags", dependencies=KNOWN)
    async def flags() -> Answer:
        return {
            "api": True, "nowebui": not server.settings.studio, "listen": not server.settings.loopback,
            "port": server.settings.port, "api_auth": None, "share": False, "enable_insecure_extension_access": False,
            "use_cpu": ["all"] if server.settings.device == "cpu" else [], "allow_code": False,
        }  # fmt: skip

    @routes.get("/sdapi/v1/memory", summary="Memory of the machine", name="sdapi_memory", dependencies=KNOWN)
    def memory() -> Answer:
        return memory_of(server.dispatcher.status())

    @routes.post("/sdapi/v1/unload-checkpoint", summary="Forget the models in memory", name="sdapi_unload_checkpoint")
    def unload(who: Who) -> Answer:
        if not who.admin:
            raise Refused(403, "forbidden", "models in memory are everybody's; this is for administrators")
        server.dispatcher.drop_models()
        return {}

    @routes.post("/sdapi/v1/reload-checkpoint", summary="Nothing: models are read when they are wanted",
                 name="sdapi_reload_checkpoint", dependencies=KNOWN)  # fmt: skip
    async def reload() -> Answer:
        return {}

    @routes.get("/internal/ping", summary="Is anybody there?", name="internal_ping")
    async def ping() -> Answer:
        return {}

    @routes.get("/internal/sysinfo", summary="What runs here", name="internal_sysinfo", dependencies=KNOWN)
    async def sysinfo() -> Answer:
        memory = await run_in_threadpool(lambda: memory_of(server.dispatcher.status()))
        return {
            "Platform": platform.platform(), "Python": platform.python_version(), "Version": f"wordbrush {__version__}",
            "Extensions": [], "RAM": memory["ram"], "Options": sorted(DEFAULTS),
        }  # fmt: skip

    return routes


def options_of(server: Server, who: Caller) -> Answer:
    """All of a caller's options, those that it has not set too."""
    own = server.store.options.get(who)
    model = server.catalogue.model(None)
    known = {MODEL: model.title, "sd_checkpoint_hash": model.sha256}
    if MODEL in own:
        try:
            model = server.catalogue.model(own[MODEL])
            known = {MODEL: model.title, "sd_checkpoint_hash": model.sha256}
        except RequestError:  # it was here when the option was set
            known = {MODEL: own[MODEL], "sd_checkpoint_hash": None}
    return DEFAULTS | own | known


def keep_options(server: Server, who: Caller, given: Answer) -> None:
    """Sets some of a caller's options; null takes one back.

    Raises:
        RequestError: a value means nothing, or there is no such model or VAE.
    """
    given = {name: value for name, value in given.items() if name != "sd_checkpoint_hash"}
    named = {name: value for name, value in given.items() if value is not None}
    checked_options(named)
    fields = request_fields(named)
    if "model" in fields:
        given[MODEL] = server.catalogue.model(fields["model"]).name
    if fields.get("vae") is not None:
        given[VAE] = server.catalogue.find(VAE_KIND, fields["vae"]).name
    kept = {name: value for name, value in (server.store.options.get(who) | given).items() if value is not None}
    if len(kept) > MOST_OPTIONS:
        raise RequestError(f"that makes {len(kept)} options; at most {MOST_OPTIONS} are kept")
    server.store.options.set(who, kept)
