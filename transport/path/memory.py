"""Keeps glibc from giving the memory of received packets back after each one.

ZeroMQ allocates a buffer for every large packet and frees it once it was
opened. Left alone, glibc returns that memory to the system and faults it in
again page by page: where messages of several sizes have come before, that took
a fifth of the throughput (docs/adr/0012).
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

# <malloc.h>
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_MMAP_THRESHOLD_MAX: Final = 32 * 1024 * 1024

KEPT_FREE: Final = 64 * 1024 * 1024  # bytes that glibc may hold on to at the end of an arena


def keep_freed_packets(packet_limit: int) -> bool:
    """Ask glibc to reuse buffers of up to `packet_limit` bytes; False where it was not asked.

    This is a setting of the whole process, so it yields to whatever the user has
    set in the environment, and it does nothing where the C library is another.
    """
    chosen = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
    if any(name in os.environ for name in chosen):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    trimmed = mallopt(_M_TRIM_THRESHOLD, KEPT_FREE)
    mapped = mallopt(_M_MMAP_THRESHOLD, min(4 * packet_limit, _MMAP_THRESHOLD_MAX))
    return bool(trimmed and mapped)
