"""The web UI's "Hires. fix" as our own second loop."""

from __future__ import annotations

from typing import Any

from wordbrush.errors import RequestError
from wordbrush.serving.sdapi.fields import Txt2Img
from wordbrush.serving.sdapi.names import SAME, hires_upscaler, sampler_and_schedule


def hires_of(body: Txt2Img, fields: dict[str, Any], size: tuple[int, int] | None) -> dict[str, Any] | None:
    """The second loop that is asked for; None for none. `fields` get the first one's size.

    size: (width, height) that the model paints by itself, where that is known.

    Raises:
        RequestError: the second pass would differ from the first in more than its size, steps and strength.
    """
    if not body.enable_hr:
        return None
    _refuse_another(body, fields)
    given = {
        "scale": _scale(body, fields, size),
        "strength": body.denoising_strength,
        "steps": body.hr_second_pass_steps or None,
        "upscaler": None if body.hr_upscaler is None else hires_upscaler(body.hr_upscaler),
    }
    told = dict(fields.get("hires") or {})  # by the infotext
    return told | {name: value for name, value in given.items() if value is not None}


def _scale(body: Txt2Img, fields: dict[str, Any], size: tuple[int, int] | None) -> float | None:
    wide, high = body.hr_resize_x or 0, body.hr_resize_y or 0
    if body.firstphase_width or body.firstphase_height:  # the old way: width and height are the result's
        wide, high = fields.get("width") or 0, fields.get("height") or 0
        fields["width"], fields["height"] = body.firstphase_width or None, body.firstphase_height or None
    if not wide and not high:
        return body.hr_scale
    first = [fields.get(name) or side for name, side in zip(("width", "height"), size or (0, 0), strict=True)]
    scales = [wanted / side for wanted, side in zip((wide, high), first, strict=True) if wanted and side]
    if not scales:
        raise RequestError("hr_resize_x and hr_resize_y need width and height, or hr_scale in place of them")
    if len(scales) == 2 and abs(scales[0] / scales[1] - 1) > 0.01:
        raise RequestError(
            f"hr_resize {wide}x{high} has another shape than the first pass, {first[0]}x{first[1]}; give a size of "
            "the same shape, one side alone, or hr_scale"
        )
    return scales[0]


def _refuse_another(body: Txt2Img, fields: dict[str, Any]) -> None:
    """Raises `RequestError` where the second pass is to have other words, another model or another sampler."""
    for name in ("prompt", "negative_prompt"):
        other = getattr(body, f"hr_{name}")
        if other and other != fields.get(name, ""):
            raise RequestError(f"hr_{name} differs from {name}: both passes read the same words here; leave it out")
    if (body.hr_checkpoint_name or "").lower() not in SAME and body.hr_checkpoint_name != fields.get("model"):
        raise RequestError("hr_checkpoint_name is another model: both passes use the same one here; leave it out")
    sampler, scheduler = body.hr_sampler_name or "", body.hr_scheduler or ""
    if sampler.lower() not in SAME and sampler_and_schedule(sampler, "normal")[0] != fields.get("sampler"):
        raise RequestError(f"hr_sampler_name={sampler!r} is another: both passes use the same sampler here")
    if scheduler.lower() in (*SAME, "automatic"):
        return
    if sampler_and_schedule("euler", scheduler)[1] != fields.get("schedule"):
        raise RequestError(f"hr_scheduler={scheduler!r} is another: both passes use the same schedule here")
