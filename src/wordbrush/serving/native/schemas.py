"""How the OpenAPI document describes the bodies that routes read themselves: a request as a client may send it."""

from __future__ import annotations

from typing import Any

from wordbrush.request import GenerationRequest
from wordbrush.serving.settings import Settings

Schema = dict[str, Any]

PICTURE: Schema = {
    "description": "A picture: base64, a data URL, or the sha256 of one that is here already.",
    "anyOf": [
        {"type": "string", "minLength": 1},
        {
            "type": "object",
            "properties": {"sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"}},
            "required": ["sha256"],
            "additionalProperties": False,
        },
    ],
}
_MASK: Schema = {
    "description": "White of a picture, a box [x, y, width, height], or \"alpha\": what is transparent may change.",
    "anyOf": [
        *PICTURE["anyOf"],
        {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 4, "maxItems": 4},
        {"const": "alpha"},
    ],
}
_LATENTS: Schema = {
    "description": "Starting noise: its shape (B, C, h, w), and float32 numbers, packed by zlib and in base64.",
    "type": "object",
    "properties": {
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 4, "maxItems": 4},
        "float32": {"type": "string"},
    },
    "required": ["shape", "float32"],
    "additionalProperties": False,
}
_NULL: Schema = {"type": "null"}
_BOUNDS = {"ge": "minimum", "le": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}
"""Where a check of ours stands before pydantic's own, its schema keeps pydantic's names of the bounds."""

EXAMPLE = {"prompt": "a fox on a blue background", "seed": 7}


def request_schema(settings: Settings) -> Schema:
    """The schema of a generation request's JSON, whole in itself, with this server's limits."""
    schema = GenerationRequest.model_json_schema()
    definitions = schema.pop("$defs", {})
    schema = _plain(schema, definitions)
    fields = schema["properties"]
    fields["image"] = {"anyOf": [*PICTURE["anyOf"], _NULL], "description": PICTURE["description"]}
    fields["mask"] = {"anyOf": [*_MASK["anyOf"], _NULL], "description": _MASK["description"]}
    fields["latents"] = {"anyOf": [_LATENTS, _NULL], "description": _LATENTS["description"]}
    fields["count"]["maximum"] = settings.max_pictures
    for name, most in (("steps", settings.max_steps), ("width", settings.max_side), ("height", settings.max_side)):
        fields[name]["anyOf"][0]["maximum"] = most
    lora = {**definitions["Lora"], "required": ["name"]}
    fields["loras"] = {
        "description": "LoRAs: names, NAME:STRENGTH, or objects.",
        "type": "array", "items": {"anyOf": [{"type": "string", "minLength": 1}, _plain(lora, definitions)]},
    }  # fmt: skip
    for name in ("clip", "preset_set"):  # the former is the server's to choose, the latter is of finished requests
        fields.pop(name, None)
    schema["description"] = "Everything that decides the pixels; what is left out means the model's own default."
    schema["example"] = EXAMPLE
    return schema


def _plain(schema: Any, definitions: Schema) -> Any:
    """The same with references written out, bounds by their names in JSON Schema, and without titles."""
    if isinstance(schema, list):
        return [_plain(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        found = definitions[schema["$ref"].rpartition("/")[2]]
        return _plain({**found, **{key: value for key, value in schema.items() if key != "$ref"}}, definitions)
    if "properties" in schema:
        fields = {name: _plain(part, definitions) for name, part in schema["properties"].items()}
        schema = {**schema, "properties": fields}
        return {key: value if key == "properties" else _plain(value, definitions)
                for key, value in schema.items() if key != "title"}
    return {_BOUNDS.get(key, key): _plain(value, definitions) for key, value in schema.items() if key != "title"}


def body(schema: Schema, example: Any = None) -> Schema:
    """`openapi_extra` of a route that reads a JSON body."""
    content: Schema = {"schema": schema}
    if example is not None:
        content["example"] = example
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def upscale_schema(settings: Settings) -> Schema:
    """Of the body of /v1/jobs/upscale."""
    side = {"anyOf": [{"type": "integer", "minimum": 1, "maximum": settings.max_side}, _NULL]}
    return {
        "type": "object",
        "properties": {
            "images": {"type": "array", "items": PICTURE, "minItems": 1, "maxItems": min(64, settings.max_pictures)},
            "scale": {"anyOf": [{"type": "number", "minimum": 1, "maximum": 8}, _NULL]},
            "width": side,
            "height": side,
            "crop": {"type": "boolean", "default": False},
            "upscaler": {"anyOf": [{"type": "string", "minLength": 1}, _NULL]},
        },
        "required": ["images"],
        "additionalProperties": False,
    }


def explain_schema(settings: Settings) -> Schema:
    """Of the body of /v1/jobs/explain."""
    return {
        "type": "object",
        "properties": {
            "request": request_schema(settings),
            "columns": {"type": "integer", "minimum": 2, "maximum": 32, "default": 8},
        },
        "required": ["request"],
        "additionalProperties": False,
    }


DESCRIBE: Schema = {
    "type": "object",
    "properties": {"image": PICTURE, "model": {"anyOf": [{"type": "string", "minLength": 1}, _NULL]}},
    "required": ["image"],
    "additionalProperties": False,
}
