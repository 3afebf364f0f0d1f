"""How often somebody may call: per key.

Calls that change something count against the rate itself; calls that only read may come ten times as often, because
programs ask for progress every second. The studio's own files, and the health checks, do not count.
"""

from __future__ import annotations

import time
from math import ceil
from typing import TYPE_CHECKING

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter, RateLimiter
from starlette.types import ASGIApp, Receive, Scope, Send

from wordbrush.serving.errors import Refused
from wordbrush.serving.guard.caller import LINK, remembered
from wordbrush.serving.guard.refusing import OPEN, SAFE, refuse
from wordbrush.serving.work import LOCAL

if TYPE_CHECKING:
    from wordbrush.serving.server import Server

READS = 10
"""So many times more often may a caller read than write."""


FAILURES = parse("30/minute")
"""So often may one address fail to show a key before it hears 429 in place of 401."""


def too_often(limiter: RateLimiter, item: RateLimitItem, who: str) -> Refused:
    """429 with the seconds after which it is worth trying again."""
    wait = max(1, ceil(limiter.get_window_stats(item, who).reset_time - time.time()))
    message = f"too many requests: {item} are allowed; try again in {wait} s"
    return Refused(429, "rate", message, {"Retry-After": str(wait)})


class RateCheck:
    """429 with Retry-After for a key that calls too often. The local user, who has no key, may call as they like."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app = app
        self._server = server
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        rate = self._rate(scope) if scope["type"] in ("http", "websocket") else None
        if rate is None:
            await self._app(scope, receive, send)
            return
        item, who = rate
        if self._limiter.hit(item, who):
            await self._app(scope, receive, send)
        else:
            await refuse(too_often(self._limiter, item, who), scope, receive, send)

    def _rate(self, scope: Scope) -> tuple[RateLimitItem, str] | None:
        """The rate that a call counts against, and the name of its counter; None where it does not count."""
        found = remembered(scope)
        safe = scope.get("method") in SAFE
        if found is None or found.id == LOCAL.id or scope["path"] in OPEN:
            return None
        if safe and scope["path"].startswith("/studio"):
            return None
        given = self._server.store.keys.limits(found).rate or self._server.settings.rate
        if given is None:
            return None
        item = parse(given)
        if found.id == LINK.id:  # whoever has a signed address, by where they are
            return item, f"link {(scope.get('client') or ('unknown', 0))[0]}"
        return (type(item)(item.amount * READS, item.multiples), f"{found.id} reads") if safe else (item, found.id)
