"""Freed memory stays with the process: on a CPU a step else spends up to a fifth of its time on getting it back."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of glibc's malloc.h


@cache
def keep_freed() -> bool:
    """Ask the C library to reuse what was freed, once for the process; False where it is not glibc.

    By default glibc maps every tensor above 32 MB anew and unmaps it when it is freed, and the kernel writes zeros into every
    page of it at its first touch. What the process holds then stays at its peak until it ends.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    return bool(mallopt(MMAP_MAX, 0)) and bool(mallopt(TRIM_THRESHOLD, -1))
