"""Where a call comes from: the name it was made to, the page that made it, and who makes it.

Three ASGI middlewares, so that they cover every route, the mounted studio and the documentation too. A page of another
site can make a browser send requests here; what it cannot do is hide that it did (Origin, Sec-Fetch-Site), nor call
this machine by one of our names when it uses a name of its own that it lets point here (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, QueryParams
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wordbrush.serving.errors import Refused
from wordbrush.serving.guard import caller
from wordbrush.serving.guard.rates import FAILURES, too_often
from wordbrush.serving.guard.refusing import HEALTH, LOGIN, OPEN, SAFE, refuse

if TYPE_CHECKING:
    from wordbrush.serving.server import Server
    from wordbrush.serving.settings import Settings


class HostCheck:
    """421 for a call to a name that is not ours."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._names = {name.lower().strip("[]") for name in ("localhost", settings.host, *settings.allowed_hosts)}
        if settings.public_url is not None:
            self._names.add((urlsplit(settings.public_url).hostname or "").lower())
        self._loopback = settings.loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self.fits(Headers(scope=scope).getlist("host")):
            await self._app(scope, receive, send)
            return
        message = "this server does not go by the name in Host; add it to allowed_hosts if it should"
        await refuse(Refused(421, "host", message), scope, receive, send)

    def fits(self, given: list[str]) -> bool:
        """Whether the Host headers of a call hold one name, and it is ours."""
        name = host_name(given[0]) if len(given) == 1 else None
        if name is None:
            return False
        if "*" in self._names or name in self._names:
            return True
        if any(ours.startswith("*.") and name.endswith(ours[1:]) for ours in self._names):
            return True
        try:  # a number is no name that anybody could let point here
            return ipaddress.ip_address(name).is_loopback or not self._loopback
        except ValueError:
            return False


def host_name(host: str) -> str | None:
    """The name or number of a Host header, in lower case, without its port; None for what is none."""
    try:
        split = urlsplit(f"//{host}")
        name, _ = split.hostname, split.port
    except ValueError:
        return None
    if not name or split.netloc != host or "@" in host or not name.isascii() or any(sign in name for sign in " \t,/\\"):
        return None
    return name.removesuffix(".").lower()


class OriginCheck:
    """403 for what another site's page makes a browser do here.

    A call that changes something, or opens a websocket, must come from a page of this server or of one that the
    settings allow, or from a program that is no browser. What only reads may also be a link that somebody follows.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._allowed = {origin.lower().rstrip("/") for origin in settings.allowed_origins}
        if settings.public_url is not None:
            url = urlsplit(settings.public_url)
            self._allowed.add(f"{url.scheme}://{url.netloc}".lower())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self.fits(scope, Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        message = "this call comes from a page of another site; add its origin to allowed_origins if it may"
        await refuse(Refused(403, "forbidden", message), scope, receive, send)

    def fits(self, scope: Scope, headers: Headers) -> bool:
        """Whether the page that a call comes from may make it."""
        changes = scope["type"] == "websocket" or scope["method"] not in SAFE
        origin = headers.get("origin")
        if origin is not None and (changes or origin != "null"):
            return self._ours(origin.lower(), headers) or self._is_allowed(origin.lower())
        site = headers.get("sec-fetch-site", "none").lower()
        if site in ("none", "same-origin"):
            return True
        if changes:
            return False
        if self._allowed:  # its pages may show our pictures; reading them is what CORS decides
            return True
        followed = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        return followed or scope["method"] == "OPTIONS"

    def _ours(self, origin: str, headers: Headers) -> bool:
        scheme, separator, place = origin.partition("://")
        return bool(separator) and scheme in ("http", "https") and place == headers.get("host", "").lower()

    def _is_allowed(self, origin: str) -> bool:
        return "*" in self._allowed or origin in self._allowed


class CallerCheck:
    """Finds out who calls, once for all that is inside; 401 for nobody, or the login page for a browser.

    An address that goes on showing wrong keys is told 429; the right key opens all the same.
    """

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app = app
        self._server = server
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] in HEALTH:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        found = await run_in_threadpool(caller.identify, self._server, headers)
        if found is None and self._signed(scope):
            found = caller.LINK
        caller.remember(scope, found)
        address = (scope.get("client") or ("unknown", 0))[0]
        if scope["path"] == LOGIN and scope.get("method") == "POST":
            await self._log_in(address, scope, receive, send)
        elif found is not None or scope["path"] in OPEN or scope.get("method") == "OPTIONS":
            await self._app(scope, receive, send)
        elif self._server.settings.studio and _page(scope, headers):
            target = quote(scope["path"], safe="/")
            await RedirectResponse(f"{LOGIN}?next={target}", status_code=303)(scope, receive, send)
        elif self._limiter.hit(FAILURES, address):
            await refuse(caller.unknown(), scope, receive, send)
        else:
            await refuse(too_often(self._limiter, FAILURES, address), scope, receive, send)

    async def _log_in(self, address: str, scope: Scope, receive: Receive, send: Send) -> None:
        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 401:
                self._limiter.hit(FAILURES, address)
            await send(message)

        if self._limiter.test(FAILURES, address):
            await self._app(scope, receive, watched)
        else:
            await refuse(too_often(self._limiter, FAILURES, address), scope, receive, send)

    def _signed(self, scope: Scope) -> bool:
        """Whether this is the signed address of one picture."""
        folder, _, name = scope["path"].rpartition("/")
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD") or folder != "/v1/images":
            return False
        query = QueryParams(scope["query_string"])
        expires, signature = query.get("expires", ""), query.get("signature", "")
        if not (expires.isascii() and expires.isdigit() and len(expires) < 16 and len(signature) == 64):
            return False
        return self._server.signatures.opens(name.partition(".")[0], int(expires), signature)


def _page(scope: Scope, headers: Headers) -> bool:
    """Whether a person looks at a page, and not a program at an API."""
    return scope.get("method") == "GET" and "text/html" in headers.get("accept", "")
