"""Work on pictures that are there: extra-single-image and extra-batch-images enlarge, png-info and interrogate read."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from PIL import Image
from pydantic import BaseModel

from wordbrush.errors import RequestError
from wordbrush.inputs import InputPicture
from wordbrush.serving.bodies import input_from, picture_from
from wordbrush.serving.errors import Refused
from wordbrush.serving.few_threads import in_few_threads
from wordbrush.serving.sdapi.errors import ANSWERS
from wordbrush.serving.sdapi.fields import ExtraBatch, Extras, ExtraSingle, Interrogate, PngInfo
from wordbrush.serving.sdapi.names import picture_upscaler
from wordbrush.serving.sdapi.painting import KNOWN, Who, do
from wordbrush.serving.sdapi.pnginfo import told_by
from wordbrush.serving.sdapi.refused import refuse_what_is_not_here
from wordbrush.serving.sdapi.tasks import Tasks
from wordbrush.serving.work import Caller, Describe, Job, Upscale

if TYPE_CHECKING:
    from wordbrush.serving.server import Server

_LARGEST_SCALE = 8

_DESCRIBER = "clip"


class Enlarged(BaseModel):
    """The answer of extra-single-image. html_info: what was done."""

    html_info: str
    image: str


class AllEnlarged(BaseModel):
    """The answer of extra-batch-images."""

    html_info: str
    images: list[str]


class Told(BaseModel):
    """The answer of png-info.

    Attributes:
        info: the text of the picture; "" where it has none.
        items: its other texts.
        parameters: the text, understood.
    """

    info: str
    items: dict[str, Any]
    parameters: dict[str, Any]


class Caption(BaseModel):
    """The answer of interrogate."""

    caption: str


def router(server: Server, tasks: Tasks) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/sdapi/v1", tags=["web UI"], responses=ANSWERS)

    @routes.post("/extra-single-image", summary="Enlarge a picture", name="sdapi_extra_single_image")
    async def single(body: ExtraSingle, who: Who) -> Enlarged:
        images = await _enlarge(server, tasks, body, [body.image], who)
        return Enlarged(html_info="", image=images[0])

    @routes.post("/extra-batch-images", summary="Enlarge pictures", name="sdapi_extra_batch_images")
    async def batch(body: ExtraBatch, who: Who) -> AllEnlarged:
        images = await _enlarge(server, tasks, body, [each.data for each in body.imageList], who)
        return AllEnlarged(html_info="", images=images)

    @routes.post("/png-info", summary="What does a picture say of itself?", name="sdapi_png_info", dependencies=KNOWN)
    async def png_info(body: PngInfo) -> Told:
        info, items, parameters = await in_few_threads(told_by, body.image, server.settings)
        return Told(info=info, items=items, parameters=parameters)

    @routes.post("/interrogate", summary="Say in words what a picture shows", name="sdapi_interrogate")
    async def interrogate(body: Interrogate, who: Who) -> Caption:
        if body.model != _DESCRIBER:
            raise Refused(404, "not_found", f"there is no interrogator {body.model[:60]!r}; there is {_DESCRIBER}")
        image = await in_few_threads(input_from, body.image, server)
        jobs = await do(server, tasks, [Describe(image=image)], who)
        return Caption(caption=str(jobs[0].output.get("caption", "")))

    return routes


async def _enlarge(server: Server, tasks: Tasks, body: Extras, given: Sequence[str], who: Caller) -> list[str]:
    """The pictures enlarged, as base64; as they are where no upscaler is named, as in the web UI."""
    refuse_what_is_not_here(body)
    first, second = picture_upscaler(body.upscaler_1), picture_upscaler(body.upscaler_2)
    share = body.extras_upscaler_2_visibility or 0.0
    if first is None:
        pictures = await in_few_threads(lambda: [picture_from(each, server.settings) for each in given])
        return await in_few_threads(lambda: [_packed(picture) for picture in pictures])
    how = _how(body)
    images = await in_few_threads(lambda: tuple(input_from(each, server) for each in given))
    upscalers = [first] if second is None or share == 0 else [first, second]
    jobs = await do(server, tasks, [_work(images, upscaler, how) for upscaler in upscalers], who)
    return await in_few_threads(_blended, server, jobs, share, len(given))


def _work(images: tuple[InputPicture, ...], upscaler: str, how: dict[str, Any]) -> Upscale:
    return Upscale(images=images, upscaler=upscaler, **how)


def _how(body: Extras) -> dict[str, Any]:
    if body.resize_mode == 1:
        width, height = body.upscaling_resize_w or 0, body.upscaling_resize_h or 0
        if not all(1 <= side <= 16384 for side in (width, height)):
            raise RequestError(f"upscaling_resize_w={width} and upscaling_resize_h={height} do not fit: 1 to 16384")
        return {"width": width, "height": height, "crop": body.upscaling_crop is not False}
    scale = 2.0 if body.upscaling_resize is None else body.upscaling_resize
    if not 1 <= scale <= _LARGEST_SCALE:
        raise RequestError(f"upscaling_resize={scale:g} does not fit: give a factor from 1 to {_LARGEST_SCALE}")
    return {"scale": scale}


def _blended(server: Server, jobs: Sequence[Job], share: float, count: int) -> list[str]:
    """The pictures of the first upscaler, or what lies between it and the second, as base64."""
    files = [[server.store.pictures.read(picture.sha256) for picture in job.pictures] for job in jobs]
    if len(files) == 1:
        return [base64.b64encode(png).decode("ascii") for png in files[0]]
    return [_packed(_between(one, two, share)) for one, two in zip(files[0][:count], files[1][:count], strict=True)]


def _between(one: bytes, two: bytes, share: float) -> Image.Image:
    """share: of the second picture."""
    first, second = (Image.open(BytesIO(png), formats=["PNG"]) for png in (one, two))
    return Image.blend(first, second.convert(first.mode), share)


def _packed(picture: Image.Image) -> str:
    buffer = BytesIO()
    picture.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
