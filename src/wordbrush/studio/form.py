"""The form of the Create page and the request that it stands for, in both directions.

An empty field means the model's own. What a restored picture has beside the form's fields is carried along.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wordbrush.errors import RequestError
from wordbrush.request import GenerationRequest
from wordbrush.request_fields import Lora

NAMES = (
    "prompt", "negative", "model", "preset", "size", "steps", "guidance", "sampler", "schedule", "seed", "count",
    "styles", "loras",
)  # fmt: skip
"""The form's fields, in the order in which handlers get their values; the LoRAs' strengths follow."""

MOST_LORAS = 6

AUTO = ""
"""The value of a choice that is left to the model."""

# Carried along unless a picture says otherwise: fields that the form has, and those that are about files.
_IN_FORM = {
    "prompt", "negative_prompt", "model", "preset", "preset_set", "width", "height", "steps", "guidance", "sampler",
    "schedule", "seed", "count", "loras", "image", "mask", "latents", "strength",
}  # fmt: skip

# What was made of the prompt that was written, and is done no second time.
_OF_WORDS = {"written", "styles", "expand"}

# What has no meaning without the picture that it began from.
OF_IMAGE = {
    "strength", "mask_invert", "mask_grow", "mask_blur", "mask_fill", "only_masked", "only_masked_padding", "extend",
    "image_guidance",
}  # fmt: skip

_SIZE = re.compile(r"\s*(\d+)\s*[x×*,]\s*(\d+)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Form:
    """The form's values.

    Attributes:
        size: "WIDTHxHEIGHT" or AUTO.
        loras: names; strengths: by name.
        carried: fields of a request that the form does not show, and under "for_prompt" the prompt that they belong to.
    """

    prompt: str = ""
    negative: str = ""
    model: str = AUTO
    preset: str = AUTO
    size: str = AUTO
    steps: int | None = None
    guidance: float | None = None
    sampler: str = AUTO
    schedule: str = AUTO
    seed: int | None = None
    count: int = 1
    styles: tuple[str, ...] = ()
    loras: tuple[str, ...] = ()
    strengths: Mapping[str, float] = field(default_factory=dict)
    carried: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_values(cls, values: Sequence[Any], carried: Mapping[str, Any] | None) -> Form:
        """values: of `NAMES`, then the strengths in the order of the LoRAs."""
        given = dict(zip(NAMES, values, strict=False))
        loras = tuple(given["loras"] or ())[:MOST_LORAS]
        strengths = dict(zip(loras, map(float, values[len(NAMES) :]), strict=False))
        texts = {name: str(given[name] or "") for name in ("prompt", "negative", "model", "preset", "size")}
        return cls(
            **texts,
            steps=_whole(given["steps"], "steps"),
            guidance=_number(given["guidance"], "guidance"),
            sampler=str(given["sampler"] or ""),
            schedule=str(given["schedule"] or ""),
            seed=seed_of(given["seed"]),
            count=_whole(given["count"], "count") or 1,
            styles=tuple(given["styles"] or ()),
            loras=loras,
            strengths=strengths,
            carried=dict(carried or {}),
        )

    def request(self) -> GenerationRequest:
        """Raises `RequestError`, one sentence, when a value does not fit."""
        if not self.prompt.strip():
            raise RequestError("there is no prompt; say what to paint")
        width, height = size_of(self.size)
        carried = dict(self.carried)
        if carried.pop("for_prompt", self.prompt) != self.prompt:  # other words: what was made of the old ones goes
            carried = {name: value for name, value in carried.items() if name not in _OF_WORDS}
        fields = {
            **carried,
            "prompt": self.prompt,
            "negative_prompt": self.negative,
            "model": self.model or None,
            "preset": self.preset or None,
            "width": width,
            "height": height,
            "steps": self.steps,
            "guidance": self.guidance,
            "sampler": self.sampler or None,
            "schedule": self.schedule or None,
            "seed": self.seed,
            "count": self.count,
            "loras": [Lora.parse([name, self.strengths.get(name, 1.0)]) for name in self.loras],
        }
        if self.styles:
            fields["styles"] = self.styles
        return GenerationRequest.from_dict({name: value for name, value in fields.items() if value is not None})

    def sketch(self) -> GenerationRequest:
        """The request for one quick picture while its text is being typed."""
        quick = Form(
            prompt=self.prompt, negative=self.negative, model=self.model, preset="fast", seed=self.seed,
            styles=self.styles, loras=self.loras, strengths=self.strengths, sampler=self.sampler,
            schedule=self.schedule,
        )  # fmt: skip
        return quick.request()


def form_of(request: GenerationRequest) -> Form:
    """The form that gives the same pictures as a picture's request; see `not_restored` for what it cannot hold."""
    fields = request.to_dict()
    carried = {name: value for name, value in fields.items() if name not in _IN_FORM | OF_IMAGE}
    if carried:
        carried["for_prompt"] = request.prompts[0]
    size = f"{request.width}x{request.height}" if request.width and request.height else AUTO
    return Form(
        prompt=request.prompts[0],
        negative=request.negative_prompt,
        model=request.model or AUTO,
        preset=AUTO if request.preset_set is not None else request.preset or AUTO,  # its values are in the fields
        size=size,
        steps=None if request.timesteps is not None else request.steps,
        guidance=request.guidance,
        sampler=request.sampler or AUTO,
        schedule=request.schedule or AUTO,
        seed=request.seed,
        loras=tuple(lora.name for lora in request.loras)[:MOST_LORAS],
        strengths={lora.name: lora.unet for lora in request.loras},
        carried=carried,
    )


def not_restored(request: GenerationRequest) -> list[str]:
    """What of a request the form cannot hold, one sentence each."""
    said = []
    if request.image is not None:
        said.append("it began from a picture, which the form does not hold; use Edit for that")
    if request.latents is not None:
        said.append("it began from noise of its own")
    if any(lora.unet != lora.text for lora in request.loras):
        said.append("a LoRA had another strength for the text than for the picture; both have that of the picture now")
    if len(request.loras) > MOST_LORAS:
        said.append(f"it has {len(request.loras)} LoRAs, of which the first {MOST_LORAS} are taken")
    return said


def size_of(text: str) -> tuple[int | None, int | None]:
    """(width, height) of "WIDTHxHEIGHT"; (None, None) of an empty text. Raises `RequestError`."""
    if not text.strip():
        return None, None
    match = _SIZE.fullmatch(text)
    if match is None:
        raise RequestError(f"size={text!r} does not fit: write width and height in pixels, such as 128x96")
    return int(match[1]), int(match[2])


def seed_of(value: Any) -> int | None:
    """A seed from the form's text. Raises `RequestError`."""
    text = str(value if value is not None else "").strip()
    if not text:
        return None
    if not text.isdigit():
        raise RequestError(f"seed={text!r} does not fit: give a whole number from 0, or leave it empty to draw one")
    return int(text)


def _number(value: Any, name: str) -> float | None:
    text = str(value if value is not None else "").strip().replace(",", ".")
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise RequestError(f"{name}={text!r} does not fit: give a number, or leave it empty") from None


def _whole(value: Any, name: str) -> int | None:
    number = _number(value, name)
    if number is not None and not number.is_integer():
        raise RequestError(f"{name}={value} does not fit: give a whole number")
    return None if number is None else int(number)
