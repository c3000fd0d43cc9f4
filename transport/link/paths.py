"""What a link knows of one of its paths: round trip, load, trust in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from .stats import PathStats

if TYPE_CHECKING:
    from .flight import Packet

# RFC 6298: smoothing of round trip and its variation, and the timeout from both.
_SMOOTHING: Final = 1 / 8
_VARIATION_SMOOTHING: Final = 1 / 4
_VARIATIONS: Final = 4
UNMEASURED: Final = 0.5  # the timeout before the first sample; RFC 9002 has 1/3 s, RFC 6298 1 s
REORDERING: Final = 3  # RFC 9002 6.1.1: packets of one path that may overtake another on it
MAX_REORDERING: Final = 64
MAX_BACKOFF: Final = 2.0**20  # other limits are reached before
_IDLE: Final = 4  # round trips without an answer: the path was not used, its rate is unknown
NEVER: Final = float("inf")


class SlotBank(Protocol):
    """Memory for sealed pieces of large messages, which a path can carry as they lie."""

    @property
    def window(self) -> int:
        """Bytes of other packets that may be in flight beside them."""
        ...

    def take(self) -> memoryview | None:
        """A writable slot whose content is arbitrary; None where all are in use."""
        ...

    def give_back(self, slot: memoryview) -> None:
        """Return a slot whose packet is acknowledged."""
        ...


class PathState:
    """One path; `handle` is the transport's own object and means nothing here.

    A path with `slots` leads through memory that both processes share. It is there
    or it is not: it loses nothing while it is up, has no congestion and is never
    suspected. All other paths are the network's.
    """

    __slots__ = (
        "address",
        "backoff",
        "bytes_received",
        "bytes_sent",
        "challenge",
        "delivered",
        "due",
        "handle",
        "in_flight",
        "in_flight_bytes",
        "index",
        "joined",
        "last_failure",
        "last_sent",
        "packets_received",
        "packets_sent",
        "rate",
        "rate_since",
        "reordering",
        "retransmissions",
        "rtt",
        "rtt_min",
        "rtt_variation",
        "sequence",
        "sequence_acknowledged",
        "slow_for",
        "slots",
        "slow_until",
        "suspected",
        "up",
    )

    def __init__(
        self,
        index: int,
        handle: object,
        address: str,
        now: float,
        slots: SlotBank | None = None,
    ) -> None:
        self.index = index
        self.slots = slots
        self.handle = handle
        self.address = address
        self.up = True  # as far as the transport knows
        self.joined = False  # proven to lead to the peer
        self.challenge: bytes | None = None  # the JOIN that is unanswered
        self.suspected = False
        self.last_failure: str | None = None
        self.backoff = 1.0
        self.due = NEVER  # when its packets in flight are next looked at
        self.reordering = REORDERING
        self.slow_until = 0.0  # the scheduler leaves it alone until then
        self.slow_for = 0.0
        self.rtt: float | None = None
        self.rtt_min: float | None = None
        self.rtt_variation = 0.0
        self.rate = 0.0  # bytes a second that arrived over it, while it was in use
        self.rate_since = now
        self.delivered = 0  # bytes since then
        self.in_flight: dict[int, Packet] = {}  # by number, in order of sending
        self.in_flight_bytes = 0  # of shared memory: without what lies in slots
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

    def timeout(self, usual: float, slack: float, delay: float, maximum: float) -> float:
        """How long an acknowledgement may take (RFC 9002 6.2.1), without backoff.

        `usual` is the round trip over all paths of late, 0 where none was measured: this
        path may not have been asked since the network filled, or never. `slack` is what
        timers and other paths may add, `delay` how long the peer may keep an
        acknowledgement back, `maximum` the longest answer.
        """
        if self.rtt is None:
            return min(3 * usual + slack + delay if usual else UNMEASURED, maximum)
        wait = max(self.rtt, usual) + max(_VARIATIONS * self.rtt_variation, slack) + delay
        return min(wait, maximum)

    def carried(self, size: int, now: float) -> None:
        """A packet arrived: count it towards the path's rate, measured round trip by round trip."""
        self.delivered += size
        elapsed = now - self.rate_since
        if self.rtt is None or elapsed < self.rtt:
            return
        if elapsed < _IDLE * self.rtt:
            rate = self.delivered / elapsed
            self.rate = self.rate + _SMOOTHING * (rate - self.rate) if self.rate else rate
        self.rate_since, self.delivered = now, 0

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
        if self.suspected:
            # After a failure the route may be another: its round trip is learnt anew.
            self.rtt_min = self.rtt
            self.suspected = False
        self.backoff = 1.0

    def suspect(self, reason: str) -> None:
        """Something sent over this path did not arrive in time."""
        self.suspected = True
        self.last_failure = reason
        self.backoff = min(self.backoff * 2, MAX_BACKOFF)  # it is asked again after twice the time

    def was_late(self, rtt: float) -> None:
        """A packet given up arrived after all, `rtt` after it was sent: be more patient.

        RFC 3522 (Eifel): the answer came sooner than the repetition could have caused it.
        """
        if self.rtt is not None:
            spread = abs(rtt - self.rtt) / _VARIATIONS
            self.rtt_variation = max(self.rtt_variation, spread)
        self.reordering = min(self.reordering * 2, MAX_REORDERING)
        self.trust()

    def stats(self, *, of_bytes: int) -> PathStats:
        """A snapshot; `of_bytes` were sent over all paths of the link."""
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
            rate=self.rate,
            share=self.bytes_sent / of_bytes if of_bytes else 0.0,
            in_flight_bytes=self.in_flight_bytes,
            retransmissions=self.retransmissions,
            suspected=self.suspected,
            last_failure=self.last_failure,
        )
