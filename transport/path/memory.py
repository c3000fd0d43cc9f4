"""Keeps glibc from giving memory back that is about to be used again.

ZeroMQ allocates a buffer for every large packet and frees it once it was
opened. Left alone, glibc returns that memory to the system and faults it in
again page by page: where messages of several sizes have come before, that took
a fifth of the throughput (docs/adr/0012).

Once anything is set, glibc no longer adapts by itself. So what is set is where it would
have come to with the largest blocks: else the program's own tensors, freed and made again
in each training step, would be faulted in again each time (docs/adr/0030).
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

# <malloc.h>
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_MMAP_THRESHOLD_MAX: Final = 32 * 1024 * 1024  # and the highest that glibc goes by itself

KEPT_FREE: Final = 64 * 1024 * 1024  # bytes that glibc may hold on to at the end of an arena


def keep_freed_packets() -> bool:
    """Ask glibc to reuse freed memory, packets included; False where it was not asked.

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
    mapped = mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_MAX)
    return bool(trimmed and mapped)
