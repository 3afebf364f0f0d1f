"""What a client asks by the web UI's words, as our own requests: one for each job.

A call is several jobs where the web UI would go on one after the other: one for each of its `n_iter`, so that /skip can
end one of them; and one for each picture where a subseed turns the noise (its seed then stays) or several pictures are
painted over. The queue joins them into batches again, so this costs nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wordbrush.errors import RequestError
from wordbrush.infotext import read_infotext
from wordbrush.inputs import InputPicture
from wordbrush.request import GenerationRequest
from wordbrush.serving.errors import Refused
from wordbrush.serving.sdapi.fields import Img2Img, Painting, Txt2Img
from wordbrush.serving.sdapi.hires import hires_of
from wordbrush.serving.sdapi.names import sampler_and_schedule
from wordbrush.serving.sdapi.options import checked_options, request_fields, without_effect
from wordbrush.serving.sdapi.pictures import CUT, PlacedPicture
from wordbrush.serving.sdapi.refused import refuse_eta, refuse_scripts, refuse_what_is_not_here

_DRAWN_BELOW = 2**32

_MASK_FILLS = ("blur", "original", "noise", "empty")
"""By inpainting_fill."""

_MUCH_LARGER = 4

_SAME_IMAGE_GUIDANCE = 1.5
"""What clients send for every model; it is the default of those that edit pictures."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """The jobs of one call.

    Attributes:
        requests: one for each job, in the order of the pictures.
        subseed: of the first picture.
        notes: what a client should know, one sentence each.
    """

    requests: tuple[GenerationRequest, ...]
    batch_size: int
    subseed: int
    subseed_strength: float
    notes: tuple[str, ...] = ()

    @property
    def pictures(self) -> int:
        """How many pictures all jobs paint."""
        return sum(request.pictures for request in self.requests)


@dataclass(frozen=True, kw_only=True)
class Caller:
    """What decides beside the body.

    Attributes:
        options: that the caller has set.
        size: (width, height) that the model paints by itself, where that is known.
        told_guidance: whether the model is told its guidance, beside or in place of being guided.
        most: pictures in one call.
    """

    options: Mapping[str, Any]
    size: tuple[int, int] | None
    told_guidance: bool
    most: int


def model_asked(body: Painting, options: Mapping[str, Any]) -> str | None:
    """The model that a call names: for itself, in the text it begins from, or by the caller's options."""
    told = read_infotext(body.infotext).fields if body.infotext else {}
    named = request_fields(options) | {name: told[name] for name in ("model",) if name in told}
    checked_options(body.override_settings)
    model = (named | request_fields(body.override_settings)).get("model")
    return None if model is None else str(model)


def text_order(body: Txt2Img, caller: Caller) -> Order:
    """The jobs of txt2img.

    Raises:
        RequestError: something does not fit, or cannot be done here.
        Refused: 400, there is no such sampler.
    """
    fields, notes = _common(body, caller)
    hires = hires_of(body, fields, caller.size)
    if hires is not None:
        fields["hires"] = hires
    elif body.enable_hr is False:
        fields.pop("hires", None)
    notes += _too_large(fields, caller.size)
    return _order(body, fields, [{}], caller, notes)


def picture_order(body: Img2Img, pictures: Sequence[PlacedPicture], caller: Caller) -> Order:
    """The jobs of img2img on the pictures and masks that the client sent. Raises as `text_order`."""
    if not pictures:
        raise RequestError("init_images is missing; give at least one picture")
    fields, notes = _common(body, caller)
    fields.pop("hires", None)
    told = read_infotext(body.infotext).ignored if body.infotext else {}
    if body.denoising_strength is not None:
        fields["strength"] = body.denoising_strength
    elif "Denoising strength" in told:
        fields["strength"] = told["Denoising strength"]
    if body.image_cfg_scale not in (None, _SAME_IMAGE_GUIDANCE):
        fields["image_guidance"] = body.image_cfg_scale
    if body.mask:
        fields |= _mask_fields(body)
        fields["only_masked"] = body.inpaint_full_res is not False
        if fields["only_masked"]:
            fields["only_masked_padding"] = body.inpaint_full_res_padding or 0
    inputs = [_inputs(placed) for placed in pictures]
    return _order(body, fields, inputs, caller, notes)


def placing(body: Img2Img) -> tuple[tuple[int, int] | None, int]:
    """The size that a picture is brought to before it is painted over, None for its own, and the resize_mode."""
    only_masked = bool(body.mask) and body.inpaint_full_res is not False
    if only_masked or body.width is None or body.height is None:
        return None, CUT
    return (body.width, body.height), body.resize_mode or 0


def _too_large(fields: Mapping[str, Any], size: tuple[int, int] | None) -> list[str]:
    """What to know when the model is asked for far more than it was trained on: clients send 512x512 by themselves."""
    width, height = fields.get("width") or 0, fields.get("height") or 0
    if size is None or width * height < _MUCH_LARGER * size[0] * size[1]:
        return []
    return [
        f"the model paints {size[0]}x{size[1]}; at {width}x{height} things repeat, unless enable_hr or an upscaler "
        "makes a smaller picture that large"
    ]


def _inputs(placed: PlacedPicture) -> dict[str, Any]:
    inputs: dict[str, Any] = {"image": InputPicture.parse(placed.picture)}
    if placed.mask is not None:
        inputs["mask"] = InputPicture.parse(placed.mask)
    return inputs


def _mask_fields(body: Img2Img) -> dict[str, Any]:
    blur = body.mask_blur
    if blur is None:
        across, down = (4 if each is None else each for each in (body.mask_blur_x, body.mask_blur_y))
        if across != down:
            raise RequestError(
                f"mask_blur_x={across} and mask_blur_y={down} differ; a mask is blurred alike both ways here"
            )
        blur = across
    return {
        "mask_blur": blur,
        "mask_invert": bool(body.inpainting_mask_invert),
        "mask_fill": _MASK_FILLS[body.inpainting_fill or 0],
    }


def _common(body: Painting, caller: Caller) -> tuple[dict[str, Any], list[str]]:
    """The request's fields that both calls have, but seeds and counts; and notes."""
    refuse_scripts(body.script_name, body.alwayson_scripts)
    refuse_what_is_not_here(body)
    checked_options(body.override_settings)
    notes = [f"{name} is not known here and was passed over" for name in body.unknown]
    notes += [f"the option {name} decides nothing here" for name in without_effect(body.override_settings)]
    fields = request_fields(caller.options)
    if body.infotext:
        told = read_infotext(body.infotext)
        fields |= told.fields
        notes += [f"{key}: {value} in the infotext means nothing here" for key, value in told.ignored.items()]
    fields |= request_fields(body.override_settings)
    _put_words(body, fields)
    for name, ours in (("steps", "steps"), ("cfg_scale", "guidance"), ("width", "width"), ("height", "height")):
        if getattr(body, name) is not None:
            fields[ours] = getattr(body, name)
    _put_sampler(body, fields)
    if body.distilled_cfg_scale is not None:
        notes += _put_distilled(body, fields, told=caller.told_guidance)
    return fields, notes


def _put_words(body: Painting, fields: dict[str, Any]) -> None:
    if body.prompt is not None and body.prompt != fields.get("prompt"):
        fields["prompt"] = body.prompt
        fields.pop("written", None)
    fields.setdefault("prompt", "")
    if body.negative_prompt is not None:
        fields["negative_prompt"] = body.negative_prompt
    if body.styles:
        fields["styles"] = tuple(body.styles)
    if body.disable_extra_networks and "<lora:" in f"{fields['prompt']}{fields.get('negative_prompt', '')}":
        raise RequestError("disable_extra_networks=true contradicts the <lora:…> in the prompt; leave one of them out")


def _put_sampler(body: Painting, fields: dict[str, Any]) -> None:
    label, scheduler = body.sampler_name or body.sampler_index, body.scheduler
    try:
        if label:
            fields["sampler"], fields["schedule"] = sampler_and_schedule(label, scheduler)
        elif scheduler and scheduler.lower() != "automatic":
            fields["schedule"] = sampler_and_schedule("euler", scheduler)[1]
    except RequestError as error:
        raise Refused(400, "request", str(error)) from error
    refuse_eta(body.eta, fields.get("sampler"))
    if "timesteps" in fields and (body.steps is not None or label or scheduler):
        del fields["timesteps"]  # the infotext's, in place of which something was given


def _put_distilled(body: Painting, fields: dict[str, Any], *, told: bool) -> list[str]:
    if not told:
        return ["distilled_cfg_scale means nothing for this model, which is told no guidance, and was passed over"]
    if "guidance" in fields:
        fields["true_guidance"] = fields["guidance"]
    fields["guidance"] = body.distilled_cfg_scale
    return []


def _order(
    body: Painting, fields: dict[str, Any], inputs: Sequence[Mapping[str, Any]], caller: Caller, notes: Sequence[str]
) -> Order:
    batch, often = body.batch_size or 1, body.n_iter or 1
    if len(inputs) > 1:
        if batch not in (1, len(inputs)):
            raise RequestError(
                f"batch_size={batch} does not fit {len(inputs)} init_images, each of which is painted over once; "
                "leave batch_size out"
            )
        batch = len(inputs)
    if batch * often > caller.most:
        raise RequestError(
            f"batch_size={batch} times n_iter={often} is more than this server does: at most {caller.most} pictures"
        )
    seed = _seed(body.seed, fields.pop("seed", None))
    subseed = _seed(body.subseed, fields.pop("variation_seed", None))
    strength = fields.pop("variation_strength", None) if body.subseed_strength is None else body.subseed_strength
    requests = tuple(
        GenerationRequest(**fields, **changed)
        for changed in _each(batch, often, inputs, _Noise(seed=seed, subseed=subseed, strength=strength or 0.0))
    )
    return Order(
        requests=requests, batch_size=batch, subseed=subseed, subseed_strength=strength or 0.0, notes=tuple(notes)
    )


@dataclass(frozen=True, kw_only=True)
class _Noise:
    seed: int
    subseed: int
    strength: float

    def of(self, index: int) -> dict[str, Any]:
        """The fields of the picture of that number: the web UI keeps the seed where a subseed has an effect."""
        if not self.strength:
            return {"seed": self.seed + index}
        return {
            "seed": self.seed, "variation_seed": self.subseed + index, "variation_strength": self.strength,
        }  # fmt: skip


def _each(batch: int, often: int, inputs: Sequence[Mapping[str, Any]], noise: _Noise) -> Iterator[dict[str, Any]]:
    """What differs from request to request."""
    for start in range(0, batch * often, batch):
        if len(inputs) > 1 or noise.strength:
            for index in range(batch):
                yield {**noise.of(start + index), **inputs[index % len(inputs)]}
        else:
            yield {**noise.of(start), **inputs[0], "count": batch}


def _seed(given: int | None, told: int | None) -> int:
    """What was given, or else what the infotext tells; a negative one, or none, is drawn."""
    seed = told if given is None else given
    return secrets.randbelow(_DRAWN_BELOW) if seed is None or seed < 0 else seed
