"""Bodies as clients send them: JSON, or multipart forms with files, lists (`image[]`) and objects (`hires[scale]`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException

from wordbrush.errors import RequestError
from wordbrush.serving.errors import Refused
from wordbrush.serving.native.bodies import json_object, json_value
from wordbrush.serving.openai.errors import bad

# Fields that are texts, whatever they look like: a prompt "7" is no number.
_TEXTS = {
    "prompt", "negative_prompt", "model", "size", "quality", "style", "background", "moderation", "output_format",
    "response_format", "input_fidelity", "user", "safety_identifier", "emphasis", "vae", "sampler", "schedule",
    "mask_fill", "upscaler", "blend_prompt", "clip", "preset", "written", "styles", "loras",
}  # fmt: skip

_UPLOADS = ("image", "mask", "markup")
_MOST_FILES, _MOST_FIELDS = 20, 200
_LARGEST_FIELD = 1024 * 1024
_KEY = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")


@dataclass(frozen=True, kw_only=True)
class Form:
    """A body.

    Attributes:
        fields: parameters by name; in a form, what reads as JSON and is no text has become that.
        files: the uploads' bytes by parameter, in order.
    """

    fields: dict[str, Any]
    files: dict[str, list[bytes]] = field(default_factory=dict)


async def read_json(request: Request) -> Form:
    """The JSON object of a body. Raises as `json_object`."""
    return Form(fields=await json_object(request))


async def read_form(request: Request) -> Form:
    """The parameters and files of a multipart body.

    Raises:
        Refused: 415 for another kind of body, 400 for a form that cannot be read.
    """
    kind = _kind_of(request)
    if kind != "multipart/form-data":
        raise Refused(415, "media_type", f"a body of the kind {kind or '(none)'!r} is not read here; send a form")
    try:
        async with request.form(max_files=_MOST_FILES, max_fields=_MOST_FIELDS, max_part_size=_LARGEST_FIELD) as form:
            items = [(key, await _read(value)) for key, value in form.multi_items()]
    except MultiPartException as error:
        raise bad(f"the form cannot be read: {error.message}", None, "invalid_form") from error
    return _sorted_out(items)


async def _read(value: UploadFile | str) -> bytes | str:
    return value if isinstance(value, str) else await value.read()


def _kind_of(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _sorted_out(items: list[tuple[str, bytes | str]]) -> Form:
    fields: dict[str, Any] = {}
    files: dict[str, list[bytes]] = {}
    for key, value in items:
        match = _KEY.fullmatch(key)
        if match is None:
            raise bad(f"the form's field {key[:60]!r} has no name that can be read", key[:60])
        name, rest = match[1], re.findall(r"\[([^\[\]]*)\]", match[2])
        if isinstance(value, bytes):
            if name not in _UPLOADS:
                raise bad(f"{name[:60]} is not a file; send it as a plain field of the form", name[:60])
            files.setdefault(name, []).append(value)
        else:
            _put(fields, name, rest, _value(name, rest, value))
    return Form(fields=fields, files=files)


def _value(name: str, rest: list[str], text: str) -> Any:
    if name in _TEXTS and not any(rest):
        return text
    try:
        return json_value(text.encode("utf-8", "replace"))
    except RequestError:  # a plain word
        return text


def _put(fields: dict[str, Any], name: str, rest: list[str], value: Any) -> None:
    """`a`, `a[]` (a list's next) and `a[b]` (an object's), as the clients write what is not flat; no deeper."""
    if len(rest) > 1 and rest != ["", ""]:
        raise bad(f"{name} is nested too deeply for a form; send it as JSON text", name)
    if not rest:
        if name in fields:
            raise bad(f"{name} is there twice; send it once", name)
        fields[name] = value
    elif rest[0] == "":
        held = fields.setdefault(name, [])
        if not isinstance(held, list):
            raise bad(f"{name} is there both as a list and as something else", name)
        held.append(value)
    else:
        held = fields.setdefault(name, {})
        if not isinstance(held, Mapping):
            raise bad(f"{name} is there both as an object and as something else", name)
        fields[name] = {**held, rest[0]: value}
