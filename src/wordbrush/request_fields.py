"""What requests are made of: names, checked types of fields, LoRAs, and a model's own defaults.

Importing this module loads neither torch nor NumPy.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
)

from wordbrush.errors import RequestError
from wordbrush.inputs import InputNoise, InputPicture, Mask, mask_json, parse_mask

SAMPLER_NAMES = (
    "ddpm", "ddim", "pndm", "euler", "euler_a", "heun", "dpm2", "dpm2_a", "lms", "dpmpp_2s_a", "dpmpp_2m",
    "dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde", "unipc", "deis", "lcm",
)  # fmt: skip
EMPHASIS_NAMES = ("original", "no norm", "ignore", "none")
MASK_FILL_NAMES = ("original", "blur", "noise", "empty")
SCHEDULE_NAMES = ("normal", "ddim_uniform", "sgm_uniform", "simple", "karras", "exponential", "beta", "ays")

SHIPPED_UPSCALER = "srresnet"
FILTERS = ("lanczos", "bicubic", "nearest")
"""Upscalers that are no networks."""
LATENT = "latent"
LATENT_UPSCALERS = (
    LATENT, "latent (antialiased)", "latent (bicubic)", "latent (bicubic antialiased)", "latent (nearest)",
    "latent (nearest-exact)",
)  # fmt: skip
"""What enlarges latents, and not pictures, for the second loop; the web UI's names, in lower case."""

LARGEST_SEED = 2**63 - 1

# A name, which may hold colons itself, then one or two strengths.
_LORA = re.compile(r"(.+?)(?::([-+]?[\d.]+))?(?::([-+]?[\d.]+))?", re.DOTALL)


def _refuse_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number is wanted, not true or false")
    return value


def _one_of(names: tuple[str, ...]) -> AfterValidator:
    def check(value: str) -> str:
        if value not in names:
            raise ValueError(f"there is no such name; there are {', '.join(names)}")
        return value

    return AfterValidator(check)


def checked_prompt(value: Any) -> Any:
    """A text, or a list of texts as a tuple; all of valid Unicode."""
    texts = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else None
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError("give a text or a list of texts")
    for text in texts:
        if any("\ud800" <= character <= "\udfff" for character in text) or "\0" in text:
            raise ValueError("the text holds characters that are not valid Unicode text")
    return value if isinstance(value, str) else texts


def optional_prompt(value: Any) -> Any:
    """The same, or None."""
    return None if value is None else checked_prompt(value)


def listed_loras(value: Any) -> Any:
    """One LoRA given without a list around it is a list of one."""
    return (value,) if isinstance(value, str | Mapping | Lora) else value


Integer = Annotated[int, BeforeValidator(_refuse_bool)]
Number = Annotated[float, BeforeValidator(_refuse_bool), Field(allow_inf_nan=False)]
SamplerName = Annotated[str, _one_of(SAMPLER_NAMES), WithJsonSchema({"type": "string", "enum": list(SAMPLER_NAMES)})]
EmphasisName = Annotated[str, _one_of(EMPHASIS_NAMES), WithJsonSchema({"type": "string", "enum": list(EMPHASIS_NAMES)})]
ScheduleName = Annotated[str, _one_of(SCHEDULE_NAMES), WithJsonSchema({"type": "string", "enum": list(SCHEDULE_NAMES)})]
Picture = Annotated[
    InputPicture,
    PlainValidator(InputPicture.parse),
    PlainSerializer(InputPicture.to_json),
    WithJsonSchema({"type": "object", "properties": {"path": {"type": "string"}, "sha256": {"type": "string"}}}),
]
MaskSource = Annotated[
    Mask,
    PlainValidator(parse_mask),
    PlainSerializer(mask_json),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "object", "properties": {"path": {"type": "string"}, "sha256": {"type": "string"}}},
                {"type": "array", "items": {"type": "integer"}, "minItems": 4, "maxItems": 4},
                {"const": "alpha"},
            ]
        }
    ),
]
Pixels = Annotated[int, BeforeValidator(_refuse_bool), Field(ge=0, le=16384)]
MaskFillName = Annotated[
    str, _one_of(MASK_FILL_NAMES), WithJsonSchema({"type": "string", "enum": list(MASK_FILL_NAMES)})
]
Noise = Annotated[
    InputNoise,
    PlainValidator(InputNoise.parse),
    PlainSerializer(InputNoise.to_json),
    WithJsonSchema({"type": "object", "properties": {"shape": {"type": "array"}, "float32": {"type": "string"}}}),
]


class Checked(BaseModel):
    """A frozen pydantic model that refuses unknown fields and says what is wrong in one sentence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise RequestError(one_sentence(error, type(self))) from error

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Raises `RequestError`, one sentence, where `model_validate` raises pydantic's own error."""
        return cls(**fields)


class ModelDefaults(Checked):
    """What a model itself wants where a request is silent."""

    steps: Integer = Field(ge=1)
    guidance: Number = Field(ge=0)
    guidance_rescale: Number = Field(default=0.0, ge=0, le=1)
    sampler: SamplerName
    schedule: ScheduleName
    width: Integer = Field(ge=8)
    height: Integer = Field(ge=8)
    strength: Number = Field(default=0.7, ge=0, le=1)
    clip_skip: Integer | None = Field(default=None, ge=1, le=12)
    true_guidance: Number | None = Field(default=None, ge=0)
    """Of models that are told their guidance; None for the others."""
    image_guidance: Number | None = Field(default=None, ge=0)
    """Of models that edit a picture; None for the others."""


class Lora(Checked):
    """A LoRA and how strongly it is applied."""

    name: str = Field(min_length=1)
    """A name that the library finds, or a path."""
    unet: Number
    """How much of its change of the network that denoises is applied; 1 is all."""
    text: Number
    """The same for the text encoders."""

    @classmethod
    def parse(cls, value: Any) -> Any:
        """Accepts a `Lora`, "NAME", "NAME:STRENGTH" or "NAME:UNET:TEXT", the same as a list, and the JSON form."""
        if isinstance(value, str):
            match = _LORA.fullmatch(value)
            value = [part for part in match.groups() if part is not None] if match else [value]
        if isinstance(value, list | tuple) and 1 <= len(value) <= 3:
            name, *strengths = value
            return cls(name=name, unet=strengths[0] if strengths else 1.0, text=strengths[-1] if strengths else 1.0)
        if isinstance(value, Mapping):
            return cls(**{"text": value.get("unet", 1.0), "unet": 1.0, **value})
        return value


class Expansion(Checked):
    """How a language model continues the prompt, and which one."""

    model: str | None = Field(default=None, min_length=1)
    """Folder of a GPT-2; None is the one that comes with the model."""
    temperature: Number = Field(default=1.0, ge=0, le=10)
    """Above 1 the unlikely is drawn more often; 0 always takes the likeliest."""
    top_k: Integer = Field(default=50, ge=0)
    """Draw among so many of the likeliest tokens; 0 is all."""
    top_p: Number = Field(default=0.95, gt=0, le=1)
    """Draw among the fewest tokens that together have this probability; 1 is all."""
    tokens: Integer = Field(default=40, ge=1, le=1000)
    """How many tokens are added at most."""
    repetition: Number = Field(default=1.0, ge=1, le=10)
    """What the logits of tokens that are there already are divided by; 1 is off."""
    no_repeat: Integer = Field(default=0, ge=0, le=100)
    """No run of so many tokens comes twice; 0 is off."""

    @classmethod
    def parse(cls, value: Any) -> Any:
        """Accepts an `Expansion`, its JSON form, true for the usual one, and false for none."""
        if isinstance(value, Mapping):
            return cls(**value)
        return cls() if value is True else value


def listed_names(value: Any) -> Any:
    """One name given without a list around it is a list of one."""
    return (value,) if isinstance(value, str) else value


class Hires(Checked):
    """High-resolution fix: a second loop that begins from the first one's picture, enlarged."""

    scale: Number = Field(default=2.0, gt=1, le=8)
    """How many times larger than `width` and `height` the picture gets."""
    upscaler: str = Field(default=LATENT, min_length=1)
    """What enlarges it: latents themselves ("latent", "latent (bicubic)" …), or an upscaler by name or path."""
    steps: Integer | None = Field(default=None, ge=1, le=1000)
    """How many steps the second loop takes; None is as many as the request's `steps`, as in the A1111 web UI."""
    strength: Number = Field(default=0.7, gt=0, le=1)
    """How much noise the second loop begins with: 1 forgets the first picture."""

    @classmethod
    def parse(cls, value: Any) -> Any:
        """Accepts a `Hires`, a scale alone, and the JSON form."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = {"scale": value}
        return cls(**value) if isinstance(value, Mapping) else value


def one_sentence(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem of a validation error, as a sentence that names field, value and what would fit."""
    problem = error.errors(include_url=False)[0]
    name = str(problem["loc"][0])[:200] if problem["loc"] else ""
    given = problem.get("input")
    shown = " ".join(repr(given[:200] if isinstance(given, str) else given).split())
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    if problem["type"] == "extra_forbidden":
        known = sorted(model.model_fields)
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        return f"unknown option {name!r}{hint}; the options are {', '.join(known)}"
    if problem["type"] == "missing":
        return f"{name} is missing; give it"
    reason = str(problem.get("ctx", {}).get("error", problem["msg"]))
    if not name:
        return reason
    return f"{name}={shown} does not fit: {reason[:1].lower() + reason[1:]}"
