"""What the OpenAPI document says of these routes; they read their bodies themselves."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from wordbrush.serving.openai.parameters import Endpoint, Parameters
from wordbrush.serving.openai.replies import ErrorReply, Images, StreamEvent

_MORE = (
    "Every field of a generation request (seed, steps, guidance, sampler, negative_prompt, loras …) is understood as "
    "well; OpenAI's clients send them as `extra_body`."
)
_FILE = {"type": "string", "format": "binary"}
_UPLOADS = {
    "image": {**_FILE, "description": "PNG, JPEG or WebP; `image[]` is the same."},
    "mask": {**_FILE, "description": "A PNG of the image's size; where it is transparent, the image may change."},
}
_NOT_OF: dict[str, set[str]] = {
    "generations": {"input_fidelity"},
    "edits": {"style"},
    "variations": {"style", "input_fidelity", "stream", "partial_images"},
}
_ERRORS = (400, 401, 403, 404, 409, 413, 415, 422, 429, 500, 503)


def route(endpoint: Endpoint) -> dict[str, Any]:
    """Keywords for the route's decorator."""
    responses: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorReply, "description": HTTPStatus(status).phrase} for status in _ERRORS
    }
    answer: dict[str, Any] = {"model": Images, "description": "The finished pictures; with `stream`, events"}
    if endpoint != "variations":
        answer["description"] += ": " + _events(endpoint)
        answer["content"] = {"text/event-stream": {}}
    return {
        "response_model": None,
        "description": _MORE,
        "responses": {200: answer, **responses},
        "openapi_extra": {"requestBody": {"required": True, "content": _content(endpoint)}},
    }


def _events(endpoint: Endpoint) -> str:
    kind = "image_generation" if endpoint == "generations" else "image_edit"
    fields = ", ".join(StreamEvent.model_fields)
    return f"`{kind}.partial_image` and `{kind}.completed`, whose data has {fields}; then `data: [DONE]`"


def _content(endpoint: Endpoint) -> dict[str, Any]:
    schema = _schema(endpoint)
    if endpoint == "generations":
        return {"application/json": {"schema": schema}}
    uploads = _UPLOADS if endpoint == "edits" else {"image": _UPLOADS["image"]}
    schema["properties"] = {**uploads, **schema["properties"]}
    schema["required"] = ["image", *schema.get("required", [])]
    return {"multipart/form-data": {"schema": schema}}


def _schema(endpoint: Endpoint) -> dict[str, Any]:
    schema = Parameters.model_json_schema()
    properties = {name: part for name, part in schema["properties"].items() if name not in _NOT_OF[endpoint]}
    properties["background"] = {**properties["background"], "enum": ["auto", "opaque"]}
    properties["output_format"] = {**properties["output_format"], "enum": ["png", "jpeg", "webp"]}
    required = [] if endpoint == "variations" else ["prompt"]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": True}
