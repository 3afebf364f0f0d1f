"""/v1/images: pictures by their hash. What a hash names never changes, so it may be kept for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.concurrency import run_in_threadpool as in_thread
from starlette.convertors import Convertor, register_url_convertor
from starlette.datastructures import UploadFile

from wordbrush.errors import RequestError
from wordbrush.serving.bodies import picture_from
from wordbrush.serving.converting import converted
from wordbrush.serving.errors import Refused, answers, not_found
from wordbrush.serving.few_threads import in_few_threads
from wordbrush.serving.guard.caller import caller
from wordbrush.serving.native.jobs import base_of
from wordbrush.serving.native.shapes import ImageAnswer, PictureAnswer, UploadAnswer, picture_url
from wordbrush.serving.store.records import picture_json
from wordbrush.serving.work import Caller

if TYPE_CHECKING:
    from pathlib import Path

    from wordbrush.serving.server import Server

Who = Annotated[Caller, Depends(caller)]
FOREVER = "private, max-age=31536000, immutable"
_KINDS = {"png": ("PNG", "image/png"), "jpg": ("JPEG", "image/jpeg"), "jpeg": ("JPEG", "image/jpeg"),
          "webp": ("WEBP", "image/webp")}  # fmt: skip
_FILE = {"type": "string", "format": "binary"}
_UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "image/png": {"schema": _FILE}, "image/jpeg": {"schema": _FILE}, "image/webp": {"schema": _FILE},
            "image/gif": {"schema": _FILE},
            "multipart/form-data": {
                "schema": {"type": "object", "properties": {"image": _FILE}, "required": ["image"]}
            },
        },
    }
}  # fmt: skip


class _Hash(Convertor[str]):
    """64 hex digits: other words below /v1/images are other routes."""

    regex = "[0-9a-f]{64}"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("sha256", _Hash())


def router(server: Server) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1", tags=["images"])

    @routes.post(
        "/images", summary="Send a picture in", status_code=201, openapi_extra=_UPLOAD,
        responses=answers(400, 401, 408, 413, 415, 422, 429),
    )  # fmt: skip
    async def upload(request: Request, who: Who) -> UploadAnswer:
        del who
        data = await _sent(request)
        return await in_few_threads(_kept, server, data)

    @routes.get(
        "/images/{sha256:sha256}.{suffix}", summary="A picture",
        description="The PNG carries its request; .jpg and .webp are made of it.",
        response_class=Response, responses={200: {"content": {kind: {"schema": _FILE} for _, kind in _KINDS.values()}},
                                            304: {"description": "Not changed"}, **answers(401, 404, 422, 429)},
    )  # fmt: skip
    async def read_image(
        request: Request, sha256: str, suffix: Literal["png", "jpg", "jpeg", "webp"], who: Who,
        quality: Annotated[int, Query(ge=1, le=100, description="Of .jpg and .webp.")] = 90,
    ) -> Response:  # fmt: skip
        path = await in_thread(_path, server, sha256, who)
        tag = f'"{sha256}"' if suffix == "png" else f'"{sha256}-{_KINDS[suffix][0]}-{quality}"'
        name = f"{sha256[:16]}.{suffix}"
        headers = {"Cache-Control": FOREVER, "ETag": tag, "Content-Disposition": f'inline; filename="{name}"'}
        if _known(request.headers.get("if-none-match"), tag):
            return Response(status_code=304, headers=headers)
        if suffix == "png":
            return FileResponse(path, media_type="image/png", headers=headers)
        kind, media_type = _KINDS[suffix]
        content = await in_few_threads(lambda: converted(path.read_bytes(), kind, quality))
        return Response(content, media_type=media_type, headers=headers)

    routes.add_api_route(
        "/images/{sha256:sha256}.{suffix}", read_image, methods=["HEAD"], include_in_schema=False,
        response_class=Response,
    )  # fmt: skip

    @routes.get(
        "/images/{sha256:sha256}", summary="What is known of a picture", response_model=ImageAnswer,
        responses=answers(401, 404, 429),
    )  # fmt: skip
    def read_about(sha256: str, who: Who) -> Any:
        return JSONResponse(_about(server, sha256, who))

    return routes


async def _sent(request: Request) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        async with request.form(max_files=1, max_fields=8) as form:
            given = form.get("image")
            if not isinstance(given, UploadFile):
                raise RequestError("the form has no file in its field image; send one")
            return await given.read()
    if kind.startswith("image/") or kind == "application/octet-stream":
        return await request.body()
    raise Refused(415, "media_type", "send the picture itself as image/png, or a form with a file in its field image")


def _kept(server: Server, data: bytes) -> UploadAnswer:
    picture = picture_from(data, server.settings)
    kept = server.store.inputs.put(picture)
    assert kept.sha256 is not None
    url = picture_url(base_of(server), kept.sha256)
    return UploadAnswer(sha256=kept.sha256, url=url, width=picture.width, height=picture.height)


def _path(server: Server, sha256: str, who: Caller) -> Path:
    """The file of a picture that this caller may see; whoever knows the hash of an input has its pixels already."""
    store = server.store
    found = store.pictures.path(sha256)
    if found is not None and server.jobs.find_picture(sha256, who) is None:
        found = None
    found = found or store.inputs.path(sha256)
    if found is None:
        raise not_found(f"picture {sha256}")
    return found


def _known(header: str | None, tag: str) -> bool:
    """Whether If-None-Match names this version."""
    return header is not None and any(
        part.strip().removeprefix("W/") in (tag, "*") for part in header.split(",")
    )


def _about(server: Server, sha256: str, who: Caller) -> dict[str, Any]:
    from PIL import Image

    base = base_of(server)
    found = server.jobs.find_picture(sha256, who)
    if found is not None:
        url = picture_url(base, sha256)
        picture = PictureAnswer.model_validate({**picture_json(found), "url": url}).model_dump()
        return {
            "sha256": sha256, "url": url, "kind": "picture", "width": found.width, "height": found.height,
            "bytes": found.bytes, "picture": picture,
        }  # fmt: skip
    path = _path(server, sha256, who)
    with Image.open(path) as image:
        width, height = image.size
    return {
        "sha256": sha256, "url": picture_url(base, sha256), "kind": "input", "width": width, "height": height,
        "bytes": path.stat().st_size, "picture": None,
    }  # fmt: skip
