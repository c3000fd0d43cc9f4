"""How long to look before sleeping.

Waking a thread costs tens of microseconds, so a waiter first looks again and
again. It gives its core away between looks, and takes two hints that it should
not look at all: looks that were in vain lately, and a core that was handed to
somebody else when it was given away. The second is what keeps more processes than
cores from holding each other up.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from time import monotonic
from typing import Final

SPIN: Final = 0.0002  # seconds
TRUST: Final = 8  # after so many spins in vain, as many waits go without
CROWDED: Final = 0.00005  # a core given away and back in less was wanted by nobody
LOOKS: Final = 32  # between two times of giving the core away


class Spinner:
    """Looks for up to `SPIN` seconds where that has paid off lately.

    Thread rule: one thread at a time.
    """

    __slots__ = ("_in_vain", "_skip")

    def __init__(self) -> None:
        self._in_vain = 0
        self._skip = 0

    def wait(self, ready: Callable[[], bool], until: float) -> bool:
        """Whether `ready()` held before the time `until` and before patience ended."""
        if self._skip:
            self._skip -= 1
            return ready()
        end = min(until, monotonic() + SPIN)
        while True:
            for _ in range(LOOKS):
                if ready():
                    self._in_vain = 0
                    return True
            before = monotonic()
            if before >= end:
                break
            os.sched_yield()
            if monotonic() - before > CROWDED:
                if ready():
                    return True
                break
        self._in_vain += 1
        if self._in_vain >= TRUST:
            self._skip = TRUST
            self._in_vain = TRUST - 1  # one more chance after that
        return False
