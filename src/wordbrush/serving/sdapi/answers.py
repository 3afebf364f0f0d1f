"""What txt2img and img2img answer: pictures as base64 in the caller's format, and what is known of them."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from wordbrush import __version__
from wordbrush.infotext import SAMPLER_LABELS, split_infotext
from wordbrush.serving.sdapi.options import FORMAT, FORMATS, LOSSLESS, QUALITY
from wordbrush.serving.sdapi.requests import Order
from wordbrush.serving.work import Job, StoredPicture

if TYPE_CHECKING:
    from wordbrush.serving.store import Store

_USER_COMMENT, _EXIF_FOLDER = 0x9286, 0x8769

_KEYS_ELSEWHERE = {
    "Steps", "Sampler", "Schedule type", "CFG scale", "Seed", "Size", "Model", "Model hash", "VAE", "VAE hash",
    "Variation seed", "Variation seed strength", "Denoising strength", "Clip skip", "Version",
}  # fmt: skip
"""Keys of an infotext that have a field of their own in `info`; the others are extra_generation_params."""


@dataclass(frozen=True)
class Picture:
    """A finished picture: what the store says of it, its file, and the web UI's text inside."""

    stored: StoredPicture
    png: bytes
    infotext: str


def finished(jobs: Sequence[Job], store: Store) -> list[Picture]:
    """The pictures of all jobs in order; of one that was cancelled, those that there are, and the last as it stood."""
    found = []
    for job in jobs:
        for stored in sorted(job.pictures, key=lambda picture: (picture.index, picture.role)):
            if stored.role in ("picture", "partial"):
                png = store.pictures.read(stored.sha256)
                found.append(Picture(stored, png, texts_in(png).get("parameters", "")))
    return found


def texts_in(png: bytes) -> dict[str, str]:
    """The text chunks of a PNG file of ours."""
    from PIL import Image

    with Image.open(BytesIO(png), formats=["PNG"]) as picture:
        return {key: value for key, value in picture.info.items() if isinstance(key, str) and isinstance(value, str)}


def encoded(picture: Picture, options: Mapping[str, Any]) -> str:
    """The picture's file as base64, as `samples_format` says; the text goes into the EXIF of formats without chunks."""
    form = FORMATS[str(options.get(FORMAT) or "png").lower()]
    if form == "PNG":
        return base64.b64encode(picture.png).decode("ascii")
    from PIL import Image

    with Image.open(BytesIO(picture.png), formats=["PNG"]) as opened:
        image = opened.convert("RGB") if form == "JPEG" else opened.copy()
    exif = Image.Exif()
    exif.get_ifd(_EXIF_FOLDER)[_USER_COMMENT] = b"UNICODE\0" + picture.infotext.encode("utf-16-be")
    buffer = BytesIO()
    lossless = form == "WEBP" and bool(options.get(LOSSLESS))
    quality = int(options.get(QUALITY) or 80)
    image.save(buffer, format=form, exif=exif.tobytes(), quality=quality, lossless=lossless)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def info_of(order: Order, jobs: Sequence[Job], pictures: Sequence[Picture]) -> str:
    """The `info` of the answer, which is JSON in a text."""
    first = pictures[0].stored.request if pictures else None
    request = first or order.requests[0].to_dict()
    pairs = split_infotext(pictures[0].infotext)[2] if pictures else {}
    prompts = [_first(_of(picture, "prompt")) for picture in pictures]
    negatives = [_of(picture, "negative_prompt") or "" for picture in pictures]
    seeds = [picture.stored.seed for picture in pictures]
    subseeds = [_of(picture, "variation_seed") for picture in pictures]
    subseeds = [order.subseed + index if seed is None else seed for index, seed in enumerate(subseeds)]
    hires = request.get("hires")
    strength = hires["strength"] if hires else request.get("strength")
    cut = [f"picture {place} is as it stood when it was ended" for place in _partial(pictures)]
    notes = dict.fromkeys([*order.notes, *(note for job in jobs for note in job.notes), *cut])
    info = {
        "prompt": prompts[0] if prompts else _first(request["prompt"]),
        "all_prompts": prompts,
        "negative_prompt": request.get("negative_prompt", ""),
        "all_negative_prompts": negatives,
        "seed": seeds[0] if seeds else request.get("seed"),
        "all_seeds": seeds,
        "subseed": subseeds[0] if subseeds else order.subseed,
        "all_subseeds": subseeds,
        "subseed_strength": order.subseed_strength,
        "width": request.get("width"),
        "height": request.get("height"),
        "sampler_name": SAMPLER_LABELS.get(request.get("sampler", "")),
        "cfg_scale": request.get("guidance"),
        "steps": request.get("steps"),
        "batch_size": order.batch_size,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": request.get("model"),
        "sd_model_hash": pairs.get("Model hash"),
        "sd_vae_name": request.get("vae"),
        "sd_vae_hash": None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": strength,
        "extra_generation_params": {key: pairs[key] for key in pairs if key not in _KEYS_ELSEWHERE},
        "index_of_first_image": 0,
        "infotexts": [picture.infotext for picture in pictures],
        "styles": list(order.requests[0].styles),
        "job_timestamp": jobs[0].created.strftime("%Y%m%d%H%M%S"),
        "clip_skip": request.get("clip_skip") or 1,
        "is_using_inpainting_conditioning": False,
        "version": f"wordbrush {__version__}",
        "notes": list(notes),
    }
    return json.dumps(info, ensure_ascii=False)


def _partial(pictures: Sequence[Picture]) -> list[int]:
    """The places, from 1, of pictures that were not painted to the end."""
    return [place for place, picture in enumerate(pictures, 1) if picture.stored.role == "partial"]


def _of(picture: Picture, name: str) -> Any:
    return (picture.stored.request or {}).get(name)


def _first(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else str(prompt[0]) if prompt else ""
