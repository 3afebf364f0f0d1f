"""From what a client asked, and the files it sent, to the work of a job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wordbrush.errors import RequestError
from wordbrush.serving.bodies import picture_from, request_from
from wordbrush.serving.openai import sizes
from wordbrush.serving.openai.errors import bad
from wordbrush.serving.openai.models import model_named, own_size
from wordbrush.serving.openai.parameters import MASKED_STRENGTH, Asked
from wordbrush.serving.openai.pictures import fitted, has_hole, mask_from
from wordbrush.serving.openai.sizes import Size
from wordbrush.serving.openai.variations import IMAGE_STRENGTH, by_image, by_noise, saved_fields
from wordbrush.serving.work import Generate

if TYPE_CHECKING:
    from PIL import Image

    from wordbrush.serving.server import Server


def works_of(asked: Asked, files: dict[str, list[bytes]], server: Server) -> list[Generate]:
    """The work: one job's, but for variations of a picture that says how it was painted, which are a job each.

    Blocks: it decodes and stores pictures.

    Raises:
        Refused: 400 naming the parameter that does not fit, 404 for a model that is not here.
        RequestError: a field of the request does not fit.
    """
    model = model_named(asked.model, server)
    own = own_size(model, server)
    if asked.endpoint == "generations":
        each = [_sized(asked, own, from_picture="image" in asked.fields) | asked.fields]
    elif asked.endpoint == "edits":
        each = [_edit(asked, files, own, server)]
    else:
        each = _variations(asked, files, own, server)
    named = {} if model is None else {"model": model}
    return [Generate(request=request_from(fields | named, server)) for fields in each]


def _sized(asked: Asked, own: Size | None, *, from_picture: bool) -> dict[str, Any]:
    """The fields of the size that was asked for; none for "auto", which leaves it to the model and the preset."""
    return {} if asked.size is None else sizes.fields_for(asked.size, own, from_picture=from_picture)


def _one_picture(files: dict[str, list[bytes]], server: Server) -> tuple[Image.Image, bytes]:
    """The picture that was sent, as pixels and as the file it was."""
    sent = files.get("image", [])
    if not sent:
        raise bad("image is missing; send it as a file of the form", "image", "missing_required_parameter")
    if len(sent) > 1:
        raise bad(f"image: {len(sent)} pictures were sent; the models here begin from one, send that alone", "image")
    return _read(sent[0], server, "image"), sent[0]


def _read(data: bytes, server: Server, name: str) -> Image.Image:
    try:
        return picture_from(data, server.settings, name)
    except RequestError as error:
        raise bad(f"{name}: {error}", name) from error


def _edit(asked: Asked, files: dict[str, list[bytes]], own: Size | None, server: Server) -> dict[str, Any]:
    """The fields of an edit: the picture, its mask, how much of it is painted anew, and at which size."""
    if "markup" in files:
        raise bad("markup cannot be had: a drawing over the picture is not understood; give a mask", "markup")
    picture, _ = _one_picture(files, server)
    sent = files.get("mask", [])
    if len(sent) > 1:
        raise bad(f"mask: {len(sent)} masks were sent; send one, for the image", "mask")
    mask = mask_from(_read(sent[0], server, "mask"), picture) if sent else None
    if mask is None and has_hole(picture):  # as with DALL·E 2: then the picture is its own mask
        mask = mask_from(picture, picture)
    if mask is None:
        return _whole_edit(asked, picture, own, asked.fidelity)
    return _masked_edit(asked, picture, mask, own)


def _whole_edit(asked: Asked, picture: Image.Image, own: Size | None, strength: float | None) -> dict[str, Any]:
    """A picture that may change all over. One too large for the model is worked on small, and enlarged again."""
    fields: dict[str, Any] = {"image": picture}
    if strength is not None:
        fields["strength"] = strength
    if not asked.sized:
        if asked.size not in (None, picture.size):
            fields |= _sized(asked, own, from_picture=True)
        elif own is not None and sizes.is_larger(picture.size, own):
            fields |= sizes.fields_near(picture.size, own)
    return fields | asked.fields


def _masked_edit(asked: Asked, picture: Image.Image, mask: Image.Image, own: Size | None) -> dict[str, Any]:
    """A picture that may change under a mask; all else stays. Of one too large, only that part is worked on."""
    if asked.size is not None:
        picture, mask = fitted(picture, asked.size), fitted(mask, asked.size, smooth=True)
    fields: dict[str, Any] = {"image": picture, "mask": mask, "strength": MASKED_STRENGTH}
    if not asked.sized and own is not None and sizes.is_larger(picture.size, own):
        fields |= {"only_masked": True, "width": own[0], "height": own[1]}
    return fields | asked.fields


def _variations(asked: Asked, files: dict[str, list[bytes]], own: Size | None, server: Server) -> list[dict[str, Any]]:
    picture, data = _one_picture(files, server)
    saved = saved_fields(data)
    turned = by_noise(asked, saved, picture.size, server)
    return turned or [by_image(saved, _whole_edit(asked, picture, own, IMAGE_STRENGTH))]
