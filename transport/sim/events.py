"""Virtual time and what happens in it: one queue of events, in picoseconds.

Time is a whole number, so that sums are exact and the order of events never
depends on rounding; 2**63 picoseconds are 106 days. Events of the same instant
happen in the order in which they were scheduled. Links are told the time as
float seconds, whose error stays below a picosecond for an hour.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any, Final

from ..errors import UsageError
from .trace import Trace

SECOND: Final = 10**12  # picoseconds
NEVER: Final = 1 << 62
_CHUNK: Final = 4096  # events between two looks at the trace's size

# What an event is given besides the time is its own business: a packet, mostly.
Call = Callable[[int, Any], None]


def picoseconds(seconds: float) -> int:
    """The nearest whole picosecond; infinity is `NEVER`."""
    return NEVER if seconds == float("inf") else round(seconds * SECOND)


class Events:
    """The queue of events, and the clock that it drives."""

    __slots__ = ("count", "heap", "now", "serials", "stopped", "trace")

    def __init__(self) -> None:
        self.heap: list[tuple[int, int, Call, Any]] = []
        """For ports, which schedule more than all others: time, serial, call, argument."""
        self.serials = count()
        self.now = 0
        self.count = 0
        self.stopped = False
        """Set by an event to end `run` after it."""
        self.trace = Trace()

    def at(self, time: int, call: Call, argument: object = None) -> None:
        """Call `call(time, argument)` when it is `time`.

        Raises:
            UsageError: that time has passed.
        """
        if time < self.now:
            raise UsageError(f"it is {self.now} ps, too late for an event at {time} ps")
        heappush(self.heap, (time, next(self.serials), call, argument))

    def run(self, until: int) -> None:
        """Let everything happen that is due by `until`; unless stopped, it is then that time."""
        heap, trace = self.heap, self.trace
        note = trace.numbers.append
        done = 0
        try:
            while heap and heap[0][0] <= until:
                time, serial, call, argument = heappop(heap)
                note(time)
                note(serial)
                self.now = time
                done += 1
                call(time, argument)
                if self.stopped:
                    return
                if not done % _CHUNK:
                    trace.flush()
        finally:
            self.count += done
        self.now = max(self.now, until)
