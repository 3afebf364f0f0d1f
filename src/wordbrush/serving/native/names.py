"""What there is by name: /v1/models, /v1/loras, /v1/samplers and the like; and how many tokens a prompt has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel, ConfigDict, Field

from wordbrush.errors import RequestError
from wordbrush.serving import tokens
from wordbrush.serving.catalogue import Known
from wordbrush.serving.errors import Refused, answers
from wordbrush.serving.guard.caller import caller
from wordbrush.serving.work import Caller

if TYPE_CHECKING:
    from wordbrush.serving.server import Server

Who = Annotated[Caller, Depends(caller)]
Title = Annotated[str, Field(max_length=200)]


class Named(BaseModel):
    """Something that requests say the name of."""

    id: str
    """What requests call it."""
    kind: str
    origin: str
    """"embedded", "hub" or "library"."""
    file: str
    title: str
    """As the A1111 web UI writes it."""
    sha256: str | None
    about: dict[str, Any]
    """What its headers and configs tell: family, base model, triggers …"""


class Model(Named):
    """A model, also in the manner of OpenAI's API."""

    object: Literal["model"] = "model"
    created: int
    """Seconds since 1970."""
    owned_by: str
    defaults: dict[str, Any]
    """What it wants where a request is silent, as far as its files say."""
    loaded: bool
    """Whether a worker has it in memory."""


class Models(BaseModel):
    """All models; the embedded one is the first and the default."""

    object: Literal["list"] = "list"
    data: list[Model]


class NamedList(BaseModel):
    """Things by name."""

    object: Literal["list"] = "list"
    data: list[Named]


class Names(BaseModel):
    """Names alone."""

    object: Literal["list"] = "list"
    data: list[str]


class TokensAsked(BaseModel):
    """A prompt to count."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(max_length=100_000)
    model: Title | None = None


class TokensAnswer(BaseModel):
    """How a model reads a prompt."""

    model: str
    tokens: int | None
    """Pieces of the prompt, without the signs of weights and tags; null for a model that reads no CLIP tokens."""
    limit: int | None
    """How many are read at a time; more are read in chunks."""
    unseen: list[str]
    """Words that the model has never met, where it says which it has."""


class Refreshed(BaseModel):
    """What there is after looking again."""

    models: int


def router(server: Server) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1", tags=["names"], dependencies=[Depends(caller)])
    _models(routes, server)
    _lists(routes, server)

    @routes.post("/tokens", summary="Count the tokens of a prompt", responses=answers(400, 401, 413, 422, 429))
    def count_tokens(asked: TokensAsked) -> TokensAnswer:
        model = server.catalogue.model(asked.model)
        found = tokens.count(model, asked.prompt)
        if found is None:
            return TokensAnswer(model=model.name, tokens=None, limit=None, unseen=[])
        return TokensAnswer(model=model.name, tokens=found.pieces, limit=found.limit, unseen=list(found.unseen))

    return routes


def _models(routes: APIRouter, server: Server) -> None:
    catalogue = server.catalogue

    @routes.get("/models", summary="The models there are", responses=answers(401, 429))
    def list_models() -> Models:
        loaded = _loaded(server)
        return Models(data=[_model(server, known, loaded) for known in catalogue.models])

    @routes.get("/models/{name:path}", summary="One model", responses=answers(401, 404, 429))
    def read_model(name: Annotated[str, Path(max_length=200)]) -> Model:
        try:
            return _model(server, catalogue.model(name), _loaded(server))
        except RequestError as error:
            raise Refused(404, "not_found", str(error)) from error

    @routes.post("/models/refresh", summary="Look through the folders again", responses=answers(401, 403, 429))
    def refresh_models(who: Who) -> Refreshed:
        _admin(who, "to look through the folders")
        catalogue.refresh()
        return Refreshed(models=len(catalogue.models))

    forbidden = answers(401, 403, 429)

    @routes.post("/models/unload", summary="Free the workers' memory", status_code=204, responses=forbidden)
    def unload_models(who: Who) -> None:
        _admin(who, "to drop models")
        server.dispatcher.drop_models()


def _lists(routes: APIRouter, server: Server) -> None:
    catalogue = server.catalogue
    usual = answers(401, 429)

    @routes.get("/loras", summary="LoRAs", responses=usual)
    def list_loras() -> NamedList:
        return _listed(catalogue.loras)

    @routes.get("/vaes", summary="Separate VAEs", responses=usual)
    def list_vaes() -> NamedList:
        return _listed(catalogue.vaes)

    @routes.get("/embeddings", summary="Textual inversions", responses=usual)
    def list_embeddings() -> NamedList:
        return _listed(catalogue.embeddings)

    @routes.get("/upscalers", summary="What enlarges pictures", responses=usual)
    def list_upscalers() -> NamedList:
        return _listed(catalogue.upscalers)

    @routes.get("/latent-upscalers", summary="What enlarges latents, for hires alone", responses=usual)
    def list_latent_upscalers() -> Names:
        return Names(data=list(catalogue.latent_upscalers))

    @routes.get("/samplers", summary="Samplers", responses=usual)
    def list_samplers() -> Names:
        return Names(data=list(catalogue.samplers))

    @routes.get("/schedules", summary="Schedules", responses=usual)
    def list_schedules() -> Names:
        return Names(data=list(catalogue.schedules))


def _listed(known: tuple[Known, ...]) -> NamedList:
    return NamedList(data=[Named(**_named(one)) for one in known])


def _named(known: Known) -> dict[str, Any]:
    return {
        "id": known.name, "kind": known.kind, "origin": known.origin, "file": known.file, "title": known.title,
        "sha256": known.sha256, "about": known.about,
    }  # fmt: skip


def _model(server: Server, known: Known, loaded: set[str]) -> Model:
    try:
        created = 0 if known.path is None else int(known.path.stat().st_mtime)
    except OSError:  # deleted since the folders were looked through
        created = 0
    return Model(
        **_named(known), created=created, owned_by="wordbrush" if known.origin == "embedded" else known.origin,
        defaults=server.catalogue.defaults_of(known.name), loaded=known.name in loaded,
    )  # fmt: skip


def _loaded(server: Server) -> set[str]:
    return {name for worker in server.dispatcher.status() for name in worker.models}


def _admin(who: Caller, what: str) -> None:
    if not who.admin:
        raise Refused(403, "forbidden", f"{what} takes an admin's key")
