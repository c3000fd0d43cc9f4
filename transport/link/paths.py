"""What a link knows of one of its paths: round trip, load, trust in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .stats import PathStats

if TYPE_CHECKING:
    from .flight import Packet

# RFC 6298: smoothing of round trip and its variation, and the timeout from both.
_SMOOTHING: Final = 1 / 8
_VARIATION_SMOOTHING: Final = 1 / 4
_VARIATIONS: Final = 4


class PathState:
    """One path; `handle` is the transport's own object and means nothing here."""

    __slots__ = (
        "address",
        "backoff",
        "bytes_received",
        "bytes_sent",
        "challenge",
        "handle",
        "in_flight",
        "in_flight_bytes",
        "index",
        "joined",
        "last_failure",
        "last_sent",
        "packets_received",
        "packets_sent",
        "retransmissions",
        "rtt",
        "rtt_min",
        "rtt_variation",
        "sequence",
        "sequence_acknowledged",
        "suspected",
        "up",
    )

    def __init__(self, index: int, handle: object, address: str, now: float) -> None:
        self.index = index
        self.handle = handle
        self.address = address
        self.up = True  # as far as the transport knows
        self.joined = False  # proven to lead to the peer
        self.challenge: bytes | None = None  # the JOIN that is unanswered
        self.suspected = False
        self.last_failure: str | None = None
        self.backoff = 1.0
        self.rtt: float | None = None
        self.rtt_min: float | None = None
        self.rtt_variation = 0.0
        self.in_flight: dict[int, Packet] = {}  # by number, in order of sending
        self.in_flight_bytes = 0
        self.sequence = 0  # packets sent over this path, as their order
        self.sequence_acknowledged = -1  # the latest of them that arrived
        self.packets_sent = self.bytes_sent = 0
        self.packets_received = self.bytes_received = 0
        self.retransmissions = 0
        self.last_sent = now

    @property
    def usable(self) -> bool:
        """Whether packets may be given to it."""
        return self.joined and self.up

    def timeout(self, minimum: float, maximum: float) -> float:
        """How long an acknowledgement may take before the packet counts as lost."""
        if self.rtt is None:
            return min(max(minimum, 0.5) * self.backoff, maximum)
        return min(
            max(self.rtt + _VARIATIONS * self.rtt_variation, minimum) * self.backoff, maximum
        )

    def sample(self, rtt: float) -> None:
        """Take a round-trip measurement."""
        if self.rtt is None or self.rtt_min is None:
            self.rtt = self.rtt_min = rtt
            self.rtt_variation = rtt / 2
            return
        self.rtt_variation += _VARIATION_SMOOTHING * (abs(self.rtt - rtt) - self.rtt_variation)
        self.rtt += _SMOOTHING * (rtt - self.rtt)
        if rtt < self.rtt_min:
            self.rtt_min = rtt

    def trust(self) -> None:
        """Something sent over this path arrived: it works."""
        self.suspected = False
        self.backoff = 1.0

    def suspect(self, reason: str) -> None:
        """Something sent over this path did not arrive in time."""
        self.suspected = True
        self.last_failure = reason
        self.backoff = min(self.backoff * 2, 64.0)

    def stats(self) -> PathStats:
        """A snapshot."""
        state = "usable" if self.usable else "joining" if self.up else "down"
        return PathStats(
            index=self.index,
            address=self.address,
            state=state,
            rtt=self.rtt,
            rtt_min=self.rtt_min,
            packets_sent=self.packets_sent,
            bytes_sent=self.bytes_sent,
            packets_received=self.packets_received,
            bytes_received=self.bytes_received,
            retransmissions=self.retransmissions,
            suspected=self.suspected,
            last_failure=self.last_failure,
        )
