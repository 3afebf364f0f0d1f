"""What browsers are told about every answer: what its page may load and do, and who may put it into a frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wordbrush.serving.guard.refusing import LOGIN

if TYPE_CHECKING:
    from wordbrush.serving.settings import Settings

_NOTHING = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; sandbox"
_DOCS = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_LOGIN = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
# Gradio's page has inline scripts and styles and compiles templates; it loads and calls nothing but this server.
_STUDIO = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; frame-ancestors 'none'; base-uri 'self'; form-action 'self'"
)

_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with "no-referrer" a browser sends our own forms with `Origin: null`
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}


class SecurityHeaders:
    """Puts them on; lies outside of everything that can answer."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._elsewhere = bool(settings.allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _ALWAYS.items():
                    headers.setdefault(name, value)
                headers["Content-Security-Policy"] = _policy(scope["path"])
                headers["Cross-Origin-Resource-Policy"] = "cross-origin" if self._elsewhere else "same-origin"
                del headers["server"]
            await send(message)

        await self._app(scope, receive, with_headers)


def _policy(path: str) -> str:
    if path == "/" or path.startswith("/studio"):
        return _STUDIO
    if path.startswith("/docs"):
        return _DOCS
    return _LOGIN if path == LOGIN else _NOTHING
