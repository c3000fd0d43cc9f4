"""How much may be in flight: the policy behind one small interface.

The link asks before it seals, and reports what happened. A controller sees
every packet that leaves, every acknowledgement with its round trip, and every
loss, with the path each used; it holds no packets itself. `BottleneckWindow`
(bottleneck.py) is what links use; `FixedWindow` here does not adapt, and the
TCP-like control (tcp.py) exists to be compared with.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from .paths import PathState


class Delivery(NamedTuple):
    """What one acknowledgement says of the whole link, after its packets were settled.

    The rate is that of draft-ietf-ccwg-bbr 4.1.1: bytes delivered while the newest
    settled packet was under way, over the longer of how long it took to send them
    and how long it took to acknowledge them.
    """

    size: int  # bytes that this acknowledgement settled
    delivered: int  # bytes delivered over the link's life
    delivered_before: int  # the same when the newest settled packet left
    rate: float | None  # bytes a second; None where only repeated packets were settled
    limited: bool  # the sender had less to send than it was allowed


class CongestionController(Protocol):
    """Decides how many bytes a link may have sealed and unacknowledged."""

    @property
    def window_bytes(self) -> int:
        """The present limit."""
        ...

    def admits(self, size: int, in_flight_bytes: int, in_flight_packets: int) -> bool:
        """Whether a packet of `size` bytes may be added to what is in flight."""
        ...

    def on_sent(self, path: PathState, size: int, now: float) -> None:
        """A packet left over `path`."""
        ...

    def on_acknowledged(self, path: PathState, size: int, rtt: float | None, now: float) -> None:
        """A packet arrived; `rtt` is `None` where a retransmission makes it ambiguous."""
        ...

    def on_delivery(self, delivery: Delivery, now: float) -> None:
        """All packets of one acknowledgement were reported."""
        ...

    def on_lost(self, path: PathState, size: int, sent_at: float) -> None:
        """A packet sent at `sent_at` over `path` is to be repeated."""
        ...

    def on_silence(self, now: float) -> bool:
        """A time-out passed over the only path: TCP's retransmission time-out.

        True where everything under way counts as lost; else its oldest packet alone is
        repeated, as a probe that no window holds up.
        """
        ...


class FixedWindow:
    """A constant limit in bytes and packets."""

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

    def on_sent(self, path: PathState, size: int, now: float) -> None:
        """Nothing to learn."""

    def on_acknowledged(self, path: PathState, size: int, rtt: float | None, now: float) -> None:
        """Nothing to learn."""

    def on_delivery(self, delivery: Delivery, now: float) -> None:
        """Nothing to learn."""

    def on_lost(self, path: PathState, size: int, sent_at: float) -> None:
        """Nothing to learn."""

    def on_silence(self, now: float) -> bool:
        """Nothing to learn."""
        return False
