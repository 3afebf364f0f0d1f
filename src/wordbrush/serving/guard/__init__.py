"""What stands between the network and the server: who calls, from where, how much and how fast, and what they send.

headers.py    what browsers are told about every answer
gate.py       Host, Origin and the caller; 421, 403, 401
rates.py      how often; 429
reading.py    how large a body, and how slowly it comes; 413, 408
listening.py  connections and headers, below HTTP
sniff.py      uploaded pictures before they are decoded; `serving.bodies` decodes them
keys.py       API keys and logged-in browsers, in the database
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI

    from wordbrush.serving.server import Server


def install(app: FastAPI, server: Server) -> None:
    """Puts the guard around everything that the application answers, mounted applications too."""
    from starlette.middleware.cors import CORSMiddleware

    from wordbrush.serving.guard.gate import CallerCheck, HostCheck, OriginCheck
    from wordbrush.serving.guard.headers import SecurityHeaders
    from wordbrush.serving.guard.rates import RateCheck
    from wordbrush.serving.guard.reading import BodyCheck

    settings = server.settings
    # What is added last lies outside.
    app.add_middleware(BodyCheck, server=server)
    app.add_middleware(RateCheck, server=server)
    app.add_middleware(CallerCheck, server=server)
    app.add_middleware(OriginCheck, settings=settings)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.allowed_origins),
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key", "Idempotency-Key", "Last-Event-ID"],
            expose_headers=["Retry-After", "X-Request-ID", "Location"],
            allow_credentials=False,  # a page of another site shows a key, it never borrows somebody's login
        )
    app.add_middleware(HostCheck, settings=settings)
    app.add_middleware(SecurityHeaders, settings=settings)
