"""How much memory there is: the machine's by /proc/meminfo, the devices' as the workers tell it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_MEMINFO = Path("/proc/meminfo")


def memory_of(workers: Sequence[Any]) -> dict[str, Any]:
    """The web UI's answer: bytes of the machine, and of what a GPU has."""
    total, free = _machine()
    ram: dict[str, Any] = {"free": free, "used": total - free, "total": total}
    devices = [{"device": worker.device, "used": worker.memory, "models": dict(worker.models)} for worker in workers]
    gpus = [each for each in devices if str(each["device"]).startswith("cuda")]
    cuda = {"system": gpus[0]} if gpus else {"error": "unavailable"}
    return {"ram": ram, "cuda": cuda, "workers": devices}


def _machine() -> tuple[int, int]:
    """(total, free) bytes."""
    try:
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text(encoding="ascii").splitlines())
        total, free = (1024 * int(lines[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
        return total, free
    except (OSError, ValueError, KeyError, IndexError):
        try:
            page = os.sysconf("SC_PAGE_SIZE")
            return page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
        except (ValueError, OSError, AttributeError):
            return 0, 0
