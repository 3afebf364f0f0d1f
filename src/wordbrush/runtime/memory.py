"""Python's and the C library's ways with memory, where they cost time."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from collections.abc import Iterator

# malloc.h of glibc
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_KEEP_BYTES = 1 << 30


def keep_freed_memory() -> bool:
    """Asks glibc to reuse freed blocks of up to a gigabyte. Returns whether it agreed; elsewhere nothing happens.

    A network frees and takes the same few hundred megabytes at every layer. By default glibc returns large blocks to
    the system, which then hands out zeroed pages again. It concerns the whole process: programs call it, not libraries.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library, musl for one
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES))


@contextlib.contextmanager
def collector_resting() -> Iterator[None]:
    """No garbage collection meanwhile; also a decorator.

    Opening a model makes a hundred thousand objects and hardly any garbage: looking for some is a tenth of the time.
    """
    if not gc.isenabled():  # by somebody else, who will say when it goes on
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
