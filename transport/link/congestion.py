"""How much may be in flight: the policy behind one small interface.

The link asks before it seals, and reports what happened. A controller sees
every packet that leaves, every acknowledgement with its round trip, and every
loss, with the path each used; it holds no packets itself.
"""

from __future__ import annotations

from typing import Protocol


class CongestionController(Protocol):
    """Decides how many bytes a link may have sealed and unacknowledged."""

    @property
    def window_bytes(self) -> int:
        """The present limit."""
        ...

    def admits(self, size: int, in_flight_bytes: int, in_flight_packets: int) -> bool:
        """Whether a packet of `size` bytes may be added to what is in flight."""
        ...

    def on_sent(self, path: int, size: int, now: float) -> None:
        """A packet left over `path`."""
        ...

    def on_acknowledged(self, path: int, size: int, rtt: float | None, now: float) -> None:
        """A packet arrived; `rtt` is `None` where a retransmission makes it ambiguous."""
        ...

    def on_lost(self, path: int, size: int, now: float) -> None:
        """A packet is to be repeated."""
        ...


class FixedWindow:
    """A constant limit in bytes and packets: enough for a path that ZeroMQ paces."""

    __slots__ = ("_packets", "_window")

    def __init__(self, window_bytes: int, window_packets: int) -> None:
        self._window = window_bytes
        self._packets = window_packets

    @property
    def window_bytes(self) -> int:
        """The constant."""
        return self._window

    def admits(self, size: int, in_flight_bytes: int, in_flight_packets: int) -> bool:
        """Whether both limits hold; one packet is always admitted."""
        return in_flight_packets == 0 or (
            in_flight_bytes + size <= self._window and in_flight_packets < self._packets
        )

    def on_sent(self, path: int, size: int, now: float) -> None:
        """Nothing to learn."""

    def on_acknowledged(self, path: int, size: int, rtt: float | None, now: float) -> None:
        """Nothing to learn."""

    def on_lost(self, path: int, size: int, now: float) -> None:
        """Nothing to learn."""
