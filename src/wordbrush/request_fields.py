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
from wordbrush.inputs import InputNoise, InputPicture

SAMPLER_NAMES = (
    "ddpm", "ddim", "pndm", "euler", "euler_a", "heun", "dpm2", "dpm2_a", "lms", "dpmpp_2s_a", "dpmpp_2m",
    "dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde", "unipc", "deis", "lcm",
)  # fmt: skip
EMPHASIS_NAMES = ("original", "no norm", "ignore", "none")
SCHEDULE_NAMES = ("normal", "ddim_uniform", "sgm_uniform", "simple", "karras", "exponential", "beta", "ays")

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
            raise RequestError(_one_sentence(error, type(self))) from error

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


def _one_sentence(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem of a validation error, as a sentence that names field, value and what would fit."""
    problem = error.errors(include_url=False)[0]
    name = str(problem["loc"][0]) if problem["loc"] else ""
    given = problem.get("input")
    shown = " ".join(repr(given).split())
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    if problem["type"] == "extra_forbidden":
        known = sorted(model.model_fields)
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return f"unknown option {name!r}{hint} The options are {', '.join(known)}"
    if problem["type"] == "missing":
        return f"{name} is missing; give it"
    reason = str(problem.get("ctx", {}).get("error", problem["msg"]))
    if not name:
        return reason
    return f"{name}={shown} does not fit: {reason[:1].lower() + reason[1:]}"
