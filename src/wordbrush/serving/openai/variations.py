"""Variations: by the noise of a picture that says how it was painted, of any other one by beginning from it."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from wordbrush.errors import RequestError
from wordbrush.infotext import read_infotext
from wordbrush.metadata import CHUNK
from wordbrush.pictures import unpack_picture
from wordbrush.serving.openai.models import canonical, model_named
from wordbrush.serving.openai.parameters import Asked
from wordbrush.serving.openai.sizes import Size

if TYPE_CHECKING:
    from wordbrush.serving.server import Server

NOISE_STRENGTH = 0.15
"""How far the noise is turned; with `IMAGE_STRENGTH` what `wordbrush vary` does."""

IMAGE_STRENGTH = 0.5
"""How much of the loop is run on a picture that does not say how it was painted."""

# A request that has one of these is not decided by its seed's noise alone.
_NOT_BY_NOISE = {"image", "mask", "extend", "latents", "hires", "variation_strength", "variation_seed"}
_OF_FILE = {"count", "model", "vae"}


def saved_fields(data: bytes) -> dict[str, Any]:
    """The fields of the request inside a picture's file; of another program's, the texts alone; else empty.

    They are what a client says, and are checked as such.
    """
    with suppress(RequestError, ValueError, KeyError, TypeError, AttributeError):
        texts = unpack_picture(data, "image").info
        if isinstance(texts.get(CHUNK), str):
            fields = json.loads(texts[CHUNK])["request"]
            return dict(fields) if isinstance(fields.get("prompt"), str) else {}
        if isinstance(texts.get("parameters"), str):
            fields = read_infotext(texts["parameters"]).fields
            return {name: fields[name] for name in ("prompt", "negative_prompt") if name in fields}
    return {}


def by_noise(asked: Asked, saved: dict[str, Any], size: Size, server: Server) -> list[dict[str, Any]] | None:
    """The requests of variations by noise, one for each picture; None where this picture has none.

    They are jobs of their own, because the pictures of one job begin from the noise of different seeds.

    Args:
        saved: what `saved_fields` found.
        size: of the picture.
    """
    if "seed" not in saved or _NOT_BY_NOISE & set(saved) or _NOT_BY_NOISE & set(asked.fields):
        return None
    if not _same_model(asked, saved, server) or saved.get("vae") is not None:
        return None
    base = {name: value for name, value in saved.items() if name not in _OF_FILE}
    if asked.size not in (None, size):
        factor = asked.size[0] / size[0] * float(saved.get("upscale") or 1)
        same_shape = asked.size[0] * size[1] == asked.size[1] * size[0]
        if not same_shape or factor <= 1:
            return None
        base["upscale"] = factor
    given = {name: value for name, value in asked.fields.items() if name not in ("count", "seed")}
    if "prompt" in given:
        base.pop("written", None)
    first, count = asked.fields.get("seed"), int(asked.fields["count"])
    turned = {"variation_strength": NOISE_STRENGTH, "count": 1}
    if first is None:  # each draws its own
        return [base | given | turned] * count
    if not isinstance(first, int) or isinstance(first, bool):
        return None  # beginning from the picture, the request says what is wrong with it
    return [base | given | turned | {"variation_seed": first + index} for index in range(count)]


def by_image(saved: dict[str, Any], begun: dict[str, Any]) -> dict[str, Any]:
    """The request of variations that begin from the picture. begun: its fields so far, as of an edit."""
    words = {name: saved[name] for name in ("prompt", "negative_prompt") if isinstance(saved.get(name), str)}
    return {"prompt": ""} | words | begun


def _same_model(asked: Asked, saved: dict[str, Any], server: Server) -> bool:
    """Whether the model that painted the picture is the one that is asked for."""
    if not isinstance(saved.get("model"), str | None):
        return False
    painted = canonical(saved.get("model"), server)
    return painted is not None and painted == canonical(model_named(asked.model, server), server)
