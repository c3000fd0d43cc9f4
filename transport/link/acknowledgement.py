"""What has been received and not yet acknowledged, and when to say so (docs/spec.md 7.2).

Packets may wait a moment for company: one acknowledgement for many costs both
sides less than one for each. Once enough of them wait, or a large message is
whole, it leaves as soon as everything that arrived together has been read.
"""

from __future__ import annotations

from typing import Final

from ..crypto.replay import WINDOW
from ..wire import frames
from .ranges import RangeSet

PACKETS_AT_ONCE: Final = 16  # small packets that one acknowledgement waits for
SLOTS_AT_ONCE: Final = 2
RANGES_KEPT: Final = 256
BYTES_AT_ONCE: Final = 1024 * 1024 + 1  # a packet of a mebibyte, or its like in smaller ones
NEVER: Final = float("inf")


class Acknowledgements:
    """Packet numbers received, above the peer's floor, and the acknowledgement that is owed."""

    __slots__ = ("_bytes", "_delay", "_packets", "_received", "_slots", "due", "now_due")

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._received = RangeSet()
        self._packets = self._bytes = self._slots = 0  # that wait for an acknowledgement
        self.due = NEVER
        """When an acknowledgement leaves even alone."""
        self.now_due = False
        """One is to leave with the next opportunity, alone if need be."""

    def received(self, number: int) -> None:
        """A packet was authentic."""
        received = self._received
        received.add(number, number + 1)
        if len(received) > RANGES_KEPT:
            # A peer that leaves gaps and never raises its floor must not fill memory:
            # what has left the replay window can never be received any more.
            received.trim(received.end - WINDOW)

    def owe(self, size: int, now: float) -> None:
        """A packet of `size` bytes wants an acknowledgement, soon."""
        self._packets += 1
        self._bytes += size
        if self.due == NEVER:
            self.due = now + self._delay
        if self._packets >= PACKETS_AT_ONCE or self._bytes >= BYTES_AT_ONCE:
            self.now_due = True

    def owe_slot(self) -> None:
        """A packet lies in a slot that its sender needs back: there are only a few."""
        self._slots += 1
        if self._slots >= SLOTS_AT_ONCE:
            self.now_due = True

    def owe_again(self, now: float) -> None:
        """A packet came a second time: acknowledge again, but never more often than this delay."""
        self.due = min(self.due, now + self._delay)

    def forget_below(self, floor: int) -> None:
        """The peer needs no acknowledgement below `floor` any more."""
        self._received.trim(floor)

    def frame(self, floor: int) -> bytes:
        """The ACK frame that pays what is owed; `floor` is this side's own."""
        self.now_due = False
        self.due = NEVER
        self._packets = self._bytes = self._slots = 0
        return frames.encode_ack(floor, self._received.descending(frames.MAX_ACK_RANGES))
