"""How tests wait for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def until(found: Callable[[], Any], seconds: float = 20) -> Any:
    """The first value that counts as true; an assertion fails when there is none in time."""
    ends = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < ends, "it did not come"
        time.sleep(0.01)
    return value
