"""What the machine has: cores, memory, GPUs; told without torch."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

_GPU = re.compile(r"nvidia\d+")

# Where Linux says what a container may use.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")

# Of a machine that does not say.
_MODEST = 8 << 30


def cores() -> int:
    """CPUs that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1


def memory() -> int:
    """Bytes that this machine, or the container, has."""
    found = _MODEST
    with contextlib.suppress(ValueError, OSError, AttributeError):
        found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # not there, or "max"
            found = min(found, int(Path(path).read_text(encoding="ascii")))
    return found


def gpus() -> int:
    """How many GPUs of NVIDIA's there seem to be."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([one for one in visible.split(",") if one.strip() not in ("", "-1")])
    try:
        return sum(_GPU.fullmatch(entry.name) is not None for entry in Path("/dev").iterdir())
    except OSError:
        return 0
