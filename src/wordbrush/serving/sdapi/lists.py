"""What there is, as the web UI lists it: samplers, schedules, models and everything that goes beside them.

No list says where a file lies on the server: where the web UI gives paths, names stand here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Depends
from starlette.concurrency import run_in_threadpool

from wordbrush.conditioning.styles import known_styles
from wordbrush.formats.library_scan import PICTURES
from wordbrush.request_fields import FILTERS, SHIPPED_UPSCALER
from wordbrush.serving.guard.caller import caller
from wordbrush.serving.sdapi.errors import ANSWERS
from wordbrush.serving.sdapi.names import (
    DEFAULT_RHO,
    NO_UPSCALER,
    latent_modes,
    listed_samplers,
    listed_schedules,
    picture_upscalers,
    sampler_aliases,
)

if TYPE_CHECKING:
    from wordbrush.serving.catalogue import Known
    from wordbrush.serving.server import Server

Items = list[dict[str, Any]]

_NOT_PICKED: tuple[str, ...] = ("hypernetworks", "face-restorers", "realesrgan-models", "script-info", "extensions")
"""Lists that are always empty: what they would hold is not done here."""


def router(server: Server) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/sdapi/v1", tags=["web UI"], responses=ANSWERS, dependencies=[Depends(caller)])
    catalogue = server.catalogue

    @routes.get("/samplers", summary="Samplers", name="sdapi_samplers")
    async def samplers() -> Items:
        return [{"name": label, "aliases": sampler_aliases(name), "options": {}} for name, label in listed_samplers()]

    @routes.get("/schedulers", summary="Schedules", name="sdapi_schedulers")
    async def schedulers() -> Items:
        return [
            {
                "name": name, "label": label, "aliases": [], "default_rho": DEFAULT_RHO.get(name, -1.0),
                "need_inner_model": False,
            }
            for name, label in listed_schedules()
        ]  # fmt: skip

    @routes.get("/upscalers", summary="What enlarges pictures", name="sdapi_upscalers")
    def upscalers() -> Items:
        own = (SHIPPED_UPSCALER, *FILTERS)
        files = [known.name for known in catalogue.upscalers if known.name not in own]
        return [
            {
                "name": name, "model_name": None if name in (NO_UPSCALER, *map(str.capitalize, FILTERS)) else name,
                "model_path": None, "model_url": None, "scale": 4,
            }
            for name in picture_upscalers(files)
        ]  # fmt: skip

    @routes.get("/latent-upscale-modes", summary="What enlarges latents", name="sdapi_latent_upscale_modes")
    async def modes() -> Items:
        return [{"name": name} for name in latent_modes()]

    @routes.get("/prompt-styles", summary="Styles", name="sdapi_prompt_styles")
    def styles() -> Items:
        return [
            {"name": style.name, "prompt": style.prompt, "negative_prompt": style.negative}
            for style in known_styles().values()
        ]

    @routes.get("/scripts", summary="Scripts: none", name="sdapi_scripts")
    async def scripts() -> dict[str, list[str]]:
        return {"txt2img": [], "img2img": []}

    for name in _NOT_PICKED:
        routes.add_api_route(
            f"/{name}", _nothing, name=f"sdapi_{name.replace('-', '_')}", summary="None of these are here",
        )  # fmt: skip
    _add_files(routes, server)
    return routes


async def _nothing() -> Items:
    """An empty list."""
    return []


def _add_files(routes: APIRouter, server: Server) -> None:
    """The lists of what the library holds, and their refreshing."""
    catalogue = server.catalogue

    @routes.get("/sd-models", summary="Models", name="sdapi_sd_models")
    def models() -> Items:
        return [_model(known) for known in catalogue.models]

    @routes.get("/sd-vae", summary="VAEs beside the models' own", name="sdapi_sd_vae")
    def vaes() -> Items:
        return [{"model_name": known.name, "filename": known.file} for known in catalogue.vaes]

    @routes.get("/loras", summary="LoRAs", name="sdapi_loras")
    def loras() -> Items:
        return [_lora(known) for known in catalogue.loras]

    @routes.get("/embeddings", summary="Textual inversions", name="sdapi_embeddings")
    def embeddings() -> dict[str, dict[str, Any]]:
        return {"loaded": {known.name: _embedding(known) for known in catalogue.embeddings}, "skipped": {}}

    async def refresh() -> None:
        await run_in_threadpool(catalogue.refresh)

    for what in ("checkpoints", "vae", "loras", "embeddings"):
        routes.add_api_route(
            f"/refresh-{what}", refresh, methods=["POST"], name=f"sdapi_refresh_{what}",
            summary="Look through the folders again",
        )  # fmt: skip


def _model(known: Known) -> dict[str, Any]:
    sha256 = known.sha256
    return {
        "title": known.title, "model_name": known.name, "hash": sha256[:10] if sha256 else None, "sha256": sha256,
        "filename": known.file, "config": None,
    }  # fmt: skip


def _lora(known: Known) -> dict[str, Any]:
    metadata = known.about.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    return {
        "name": known.name, "alias": str(metadata.get("ss_output_name") or known.name), "path": known.file,
        "metadata": metadata,
    }  # fmt: skip


def _embedding(known: Known) -> dict[str, Any]:
    about = {} if known.file.lower().endswith(PICTURES) else known.about  # a picture would have to be unpacked
    width = re.match(r"\d+", str(about.get("widths", "")))
    return {
        "step": None, "sd_checkpoint": None, "sd_checkpoint_name": None, "shape": int(width[0]) if width else None,
        "vectors": about.get("vectors"),
    }  # fmt: skip
