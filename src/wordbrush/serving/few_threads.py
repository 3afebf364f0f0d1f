"""A few threads of their own for pictures that clients send or want in another format.

A file of 200 kilobytes may unpack to 64 million pixels, which keep a thread busy for seconds. In the threads that all
routes share, a handful of such calls at the same time would leave none for anybody else.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

from anyio import CapacityLimiter
from anyio.lowlevel import RunVar
from anyio.to_thread import run_sync

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 4

_limiter: RunVar[CapacityLimiter] = RunVar("wordbrush_few_threads")  # one for each event loop


async def in_few_threads(call: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
    """Calls in a thread, at most `THREADS` of them at the same time; others wait without holding one."""
    try:
        limiter = _limiter.get()
    except LookupError:
        limiter = CapacityLimiter(THREADS)
        _limiter.set(limiter)
    return await run_sync(partial(call, *given, **named), limiter=limiter)
