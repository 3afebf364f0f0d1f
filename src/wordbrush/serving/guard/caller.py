"""Who calls: told by a key in the headers, or by the cookie of a browser that logged in with one.

A key may stand in `Authorization: Bearer`, in `Authorization: Basic` as the password (which is how clients of the web
UI's API send it), or in `X-API-Key`. Without any key in the database, whoever reaches a server that listens on this
machine alone is the local user; one that listens elsewhere then answers nobody.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Annotated, Any, cast

from fastapi import Request, Response, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.datastructures import Headers
from starlette.requests import cookie_parser

from wordbrush.errors import RequestError
from wordbrush.serving.errors import Refused
from wordbrush.serving.guard.keys import SESSION, Keys
from wordbrush.serving.work import LOCAL, Caller

if TYPE_CHECKING:
    from wordbrush.serving.server import Server
    from wordbrush.serving.settings import Settings

COOKIE = "wordbrush_session"
LINK = Caller(id="link", name="signed address", admin=True)
"""Who has a signed address of one picture; only ever the caller of GET on that very address."""

_SEEN = "caller"  # where the guard leaves whom it found, in the ASGI scope's state

_bearer = HTTPBearer(auto_error=False, description="A key that `wordbrush keys add` printed.")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="The same key.")


async def caller(
    request: Request, bearer: Annotated[Any, Security(_bearer)] = None, header: Annotated[Any, Security(_header)] = None
) -> Caller:
    """Dependency of every route that needs to know who calls; `gate.CallerCheck` found out. Raises `Refused` (401)."""
    del bearer, header  # they are there for the OpenAPI document alone
    found = remembered(request.scope)
    if found is None:
        raise unknown()
    return found


def remember(scope: Any, found: Caller | None) -> None:
    """Leaves in the ASGI scope who was found, for `caller`, the log and mounted applications."""
    scope.setdefault("state", {})[_SEEN] = found


def remembered(scope: Any) -> Caller | None:
    """Whom the guard found; None for nobody."""
    return cast("Caller | None", scope.get("state", {}).get(_SEEN))


def identify(server: Server, headers: Headers) -> Caller | None:
    """Who sends these headers; None for nobody. May ask the database."""
    keys = server.store.keys
    if not keys_needed(server.settings, keys):
        return LOCAL
    secret = secret_of(headers)
    if secret is not None:
        return keys.check(secret)
    token = session_of(headers)
    return keys.session(token) if token else None


def keys_needed(settings: Settings, keys: Keys) -> bool:
    """Whether callers must show a key."""
    return not settings.loopback or keys.any()


def check_bind(settings: Settings, keys: Keys) -> None:
    """Raises `RequestError` when other machines could reach the server and no key protects it."""
    if not settings.loopback and not keys.any():
        raise RequestError(
            f"host={settings.host} lets other machines in, and there is no API key yet; "
            "make one with: wordbrush keys add NAME"
        )


def secret_of(headers: Headers) -> str | None:
    """The secret in the headers, whichever way it is sent; None where there is none."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer" and value:
        return value
    if scheme.lower() == "basic" and value:
        try:
            return base64.b64decode(value, validate=True).decode("utf-8").partition(":")[2]
        except (ValueError, binascii.Error):
            return ""  # which is nobody's
    return headers.get("x-api-key")


def session_of(headers: Headers) -> str | None:
    """The session's token in the cookies; None where there is none."""
    # Not http.cookies, which forgets all of them where one, of another program on this machine, is not as it likes.
    return cookie_parser(headers.get("cookie", "")).get(COOKIE)


def set_cookie(response: Response, token: str, *, secure: bool) -> None:
    """Logs a browser in. secure: whether it came by https, and is to send the cookie by that alone."""
    response.set_cookie(
        COOKIE, token, max_age=int(SESSION.total_seconds()), httponly=True, samesite="strict", secure=secure, path="/"
    )


def unset_cookie(response: Response) -> None:
    """Logs it out."""
    response.delete_cookie(COOKIE, httponly=True, samesite="strict", path="/")


def unknown() -> Refused:
    """What nobody is told."""
    message = (
        "an API key is needed: send it as Authorization: Bearer KEY, or as the password of HTTP Basic; "
        "wordbrush keys add NAME makes one"
    )
    return Refused(401, "unauthorized", message, {"WWW-Authenticate": 'Bearer realm="wordbrush"'})
