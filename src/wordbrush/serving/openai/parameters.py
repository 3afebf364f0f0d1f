"""The parameters of OpenAI's Images API, and what each of them means here.

Beside OpenAI's own, every field of `GenerationRequest` is understood (the clients' `extra_body`), and has the last word
where an OpenAI parameter says something about it, too. What can have no effect here is refused, never ignored.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wordbrush.request import GenerationRequest
from wordbrush.request_fields import Integer, one_sentence
from wordbrush.serving.openai.errors import bad
from wordbrush.serving.openai.sizes import Size, read_size

Endpoint = Literal["generations", "edits", "variations"]

LONGEST_PROMPT = 32_000
MOST_PICTURES = 10

QUALITIES: dict[str, tuple[str, str | None]] = {
    "auto": ("medium", None),
    "standard": ("medium", None),
    "low": ("low", "fast"),
    "medium": ("medium", None),
    "high": ("high", "quality"),
    "hd": ("high", "quality"),
    "xhigh": ("high", "quality"),
    "max": ("high", "quality"),
}
"""quality -> what the answer calls it, and the preset that it is; None is the model's own settings."""

NATURAL_RESCALE = 0.7
"""`guidance_rescale` of style "natural": the contrast that guidance adds is taken back (Lin 2024)."""

FIDELITIES = {"low": None, "high": 0.5}
"""input_fidelity -> the strength of an edit without a mask; None is the model's own (0.7 unless it says otherwise)."""

MASKED_STRENGTH = 1.0
"""Strength of an edit with a mask: what is under it is painted anew."""

# What other programs' Images APIs have and this one cannot do, and why not.
_CANNOT = {
    "complexity": "no planning is done before painting; leave it out",
    "frame_count": "no animations are painted here; leave it out",
    "frame_duration_ms": "no animations are painted here; leave it out",
    "svg": "pictures are painted as pixels here; leave it out",
    "markup": "a drawing over the picture is not understood; give a mask",
}

_SIZED = {"width", "height", "upscale", "hires"}


class Parameters(BaseModel):
    """OpenAI's own parameters; what is not among them is looked for among the fields of a request."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())

    prompt: str | None = Field(default=None, max_length=LONGEST_PROMPT)
    """What the picture shows."""
    model: str | None = Field(default=None, max_length=200)
    """A name from /v1/models, or of a hosted model, which stands for the default one."""
    n: Integer = Field(default=1, ge=1, le=MOST_PICTURES)
    """How many pictures."""
    size: str | None = Field(default=None, max_length=40)
    """WIDTHxHEIGHT, or auto: the model's own, or the picture's."""
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] = "auto"
    """low is the preset `fast`, high and above `quality`, everything else the model's own settings."""
    style: Literal["vivid", "natural"] | None = None
    """natural takes back the contrast that guidance adds."""
    background: Literal["auto", "opaque", "transparent"] = "auto"
    """Pictures are opaque; transparent is refused."""
    moderation: Literal["auto", "low"] = "auto"
    """Accepted; pictures are treated the same."""
    output_format: Literal["png", "jpeg", "webp", "gif", "svg"] = "png"
    """gif and svg are refused."""
    output_compression: Integer | None = Field(default=None, ge=0, le=100)
    """Quality of JPEG and WebP, 100 is best."""
    response_format: Literal["b64_json", "url"] | None = None
    """b64_json, unless the model asked for is a DALL·E, whose clients expect url."""
    stream: bool = False
    """Server-sent events instead of one answer."""
    partial_images: Integer | None = Field(default=None, ge=0, le=3)
    """With `stream`, so many previews of each picture while it is painted."""
    input_fidelity: Literal["low", "high"] | None = None
    """Of edits without a mask: high keeps more of the picture (strength 0.5)."""
    user: str | None = Field(default=None, max_length=1000)
    """Accepted, and given back as `safety_identifier`."""
    safety_identifier: str | None = Field(default=None, max_length=1000)
    """Accepted, and given back."""


_OWN = set(Parameters.model_fields)


@dataclass(frozen=True, kw_only=True)
class Output:
    """How finished pictures are handed over.

    Attributes:
        format: "png", "jpeg" or "webp".
        quality: 0 to 100 of the latter two.
        as_url: an address instead of the bytes.
    """

    format: str = "png"
    quality: int = 100
    as_url: bool = False


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a client asked, understood.

    Attributes:
        model: as the client named it; None where it named none.
        fields: of a `GenerationRequest`, without model, size and OpenAI's uploads.
        size: None is auto.
        sized: whether `fields` decide the size.
        quality: what the answer calls it.
        fidelity: the strength that `input_fidelity` says.
    """

    endpoint: Endpoint
    model: str | None
    fields: dict[str, Any]
    size: Size | None
    sized: bool
    quality: str
    output: Output
    stream: bool = False
    partial_images: int = 0
    fidelity: float | None = None
    safety_identifier: str | None = field(default=None)


def understood(given: Mapping[str, Any], endpoint: Endpoint) -> Asked:
    """What parameters mean, uploads apart; those that are None are not given.

    Raises:
        Refused: 400, for one that is unknown, does not fit, or cannot be done here.
    """
    present = {name: value for name, value in given.items() if value is not None}
    for name in present:
        if name in _CANNOT:
            raise bad(f"{name} cannot be had: {_CANNOT[name]}", name, "unsupported_parameter")
    try:
        parameters = Parameters.model_validate({name: value for name, value in present.items() if name in _OWN})
    except ValidationError as error:
        name = str(error.errors(include_url=False)[0]["loc"][0])
        raise bad(one_sentence(error, Parameters), name) from error
    extra = {name: value for name, value in present.items() if name not in _OWN}
    _refuse_unknown(extra)
    _refuse_impossible(parameters, endpoint, present)
    fields = _fields(parameters, extra, endpoint)
    sized = bool(_SIZED & set(extra))
    size = read_size(parameters.size)
    if sized and size is not None:
        name = sorted(_SIZED & set(extra))[0]
        raise bad(f"size={parameters.size} and {name} both say how large the picture is; leave one of them out", "size")
    return Asked(
        endpoint=endpoint,
        model=parameters.model,
        fields=fields,
        size=size,
        sized=sized,
        quality=QUALITIES[parameters.quality][0],
        output=_output(parameters),
        stream=parameters.stream,
        partial_images=parameters.partial_images or 0,
        fidelity=FIDELITIES[parameters.input_fidelity or "low"],
        safety_identifier=parameters.safety_identifier or parameters.user or None,
    )


def _refuse_unknown(extra: Mapping[str, Any]) -> None:
    known = [*GenerationRequest.model_fields, *Parameters.model_fields]
    for name in extra:
        if name not in GenerationRequest.model_fields:
            close = difflib.get_close_matches(name[:60], known, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            about = "beside OpenAI's parameters, every field of a generation request is understood"
            shown = name[:60].encode("utf-8", "replace").decode()  # it may be no valid Unicode
            raise bad(f"unknown parameter {shown!r}: {hint}{about}", shown, "unknown_parameter")


def _refuse_impossible(parameters: Parameters, endpoint: Endpoint, present: Mapping[str, Any]) -> None:
    if parameters.prompt is None and endpoint != "variations":
        raise bad("prompt is missing; give it", "prompt", "missing_required_parameter")
    if parameters.background == "transparent":
        raise bad("background='transparent' cannot be had: pictures are opaque here; give opaque or auto", "background")
    if parameters.output_format in ("gif", "svg"):
        raise bad(f"output_format={parameters.output_format!r} cannot be had; give png, jpeg or webp", "output_format")
    if parameters.output_format == "png" and parameters.output_compression not in (None, 100):
        lossless = "PNG loses nothing; give output_format jpeg or webp, or leave it out"
        raise bad(f"output_compression={parameters.output_compression} has no effect: {lossless}", "output_compression")
    if parameters.stream and parameters.response_format == "url":
        raise bad("response_format='url' has no effect with stream; leave one of them out", "response_format")
    if parameters.partial_images and not parameters.stream:
        raise bad("partial_images has no effect without stream=true; give that as well", "partial_images")
    allowed = {"generations": {"style"}, "edits": {"input_fidelity"}, "variations": set[str]()}[endpoint]
    for name in {"style", "input_fidelity"} - allowed:
        if name in present:
            raise bad(f"{name} has no meaning for {endpoint}; leave it out", name)
    if endpoint == "variations" and parameters.stream:
        raise bad("stream=true cannot be had for variations; ask without, or use edits", "stream")


def _fields(parameters: Parameters, extra: dict[str, Any], endpoint: Endpoint) -> dict[str, Any]:
    """The fields of a request, without model, size and uploads."""
    fields: dict[str, Any] = {"count": parameters.n}
    if parameters.prompt is not None:
        fields["prompt"] = parameters.prompt
    preset = QUALITIES[parameters.quality][1]
    if preset is not None:
        if "preset" in extra:
            raise bad(f"quality={parameters.quality!r} is itself a preset; leave it or preset out", "quality")
        fields["preset"] = preset
    if parameters.style == "natural":
        fields["guidance_rescale"] = NATURAL_RESCALE
    if "count" in extra and "n" in parameters.model_fields_set:
        raise bad("n and count both say how many pictures; leave one of them out", "n")
    for name in ("image", "mask"):
        if name in extra and endpoint != "generations":
            raise bad(f"{name} is to be sent as a file here (multipart/form-data)", name)
    return fields | extra


def _output(parameters: Parameters) -> Output:
    quality = 100 if parameters.output_compression is None else parameters.output_compression
    dalle = parameters.model is not None and parameters.model.startswith("dall-e")
    form = parameters.response_format or ("url" if dalle and not parameters.stream else "b64_json")
    return Output(format=parameters.output_format, quality=quality, as_url=form == "url")
