"""JSON bodies as a client sent them, before anything of ours is made of them."""

from __future__ import annotations

import json
import re
from typing import Any

from fastapi import Request

from wordbrush.errors import RequestError
from wordbrush.serving.errors import Refused

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


async def json_object(request: Request) -> dict[str, Any]:
    """The body's fields.

    Raises:
        RequestError: it is no JSON object, or holds what is no Unicode text.
        Refused: it says that it is something else than JSON (415).
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise Refused(415, "media_type", f"send Content-Type: application/json, not {kind[:80] or 'nothing'!r}")
    found = json_value(await request.body())
    if not isinstance(found, dict):
        raise RequestError("the body is not a JSON object; send one such as {\"prompt\": \"a fox\"}")
    return found


def json_value(data: bytes) -> Any:
    """What a JSON text says. Raises `RequestError` when it is none, or holds what is no Unicode text."""
    try:
        found = json.loads(data, parse_constant=_no_number)
        if _SURROGATE.search(data):  # pairs are letters; halves are not
            json.dumps(found, ensure_ascii=False).encode()
    except UnicodeError as error:
        raise RequestError("the body holds characters that are not valid Unicode text") from error
    except RecursionError as error:
        raise RequestError("the body is nested too deeply") from error
    except ValueError as error:
        raise RequestError(f"the body is not JSON: {error}") from error
    return found


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")
