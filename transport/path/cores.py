"""On which core a thread runs, and how it gets off one that is needed by somebody else.

Two processes that answer each other can use a core each. Where Linux has put them on one
it may leave them there, each waiting for the other's turn, while another core idles
(docs/adr/0029): it moves what is waiting for a core, and here hardly anything waits for
long. So whoever notices asks to be moved. That is a hint, given seldom and taken back at
once: the thread may run afterwards wherever it might before.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from time import monotonic
from typing import Final

PAUSE: Final = 0.004  # at least so long between two moves: each takes about 70 us
LONGEST_PAUSE: Final = 0.064  # where there are more processes than cores, moving does not help
FORBIDDEN: Final = 60.0  # seconds until it is tried again where it failed
HELPED: Final = 8  # pauses without a reason to move: the last one did help


def _current() -> Callable[[], int] | None:
    try:
        function = ctypes.CDLL(None).sched_getcpu
    except (OSError, AttributeError):  # a C library that does not tell
        return None
    function.argtypes, function.restype = (), ctypes.c_int
    call: Callable[[], int] = function
    return call


_CURRENT: Final = _current()


def current() -> int:
    """The core that the calling thread is on, as far as that can be known; else -1."""
    return -1 if _CURRENT is None else _CURRENT()


class Cores:
    """Moves threads of this process from core to core, but not all the time."""

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self._now = now
        self._pause = PAUSE
        self._next = 0.0
        self.moves = 0

    def leave(self) -> bool:
        """Get the calling thread onto another core that it may run on; False where not now."""
        now = self._now()
        if now < self._next:
            return False
        again = now - self._next < HELPED * self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE) if again else PAUSE
        self._next = now + self._pause
        try:
            here, allowed = current(), os.sched_getaffinity(0)
            if here not in allowed or len(allowed) == 1:
                return False
            try:
                os.sched_setaffinity(0, allowed - {here})
            finally:
                os.sched_setaffinity(0, allowed)
        except OSError:  # a sandbox forbids it, or the cores allowed have just changed
            self._next = now + FORBIDDEN
            return False
        self.moves += 1
        return True


cores: Final = Cores()
"""Those of this process."""
