"""What a link can say about itself: plain frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..identity.attestation import Attested


@dataclass(frozen=True, slots=True, kw_only=True)
class PathStats:
    """One path of a link. Times are seconds, sizes bytes of sealed packets."""

    index: int
    address: str
    state: str  # "usable", "joining" or "down"
    rtt: float | None  # smoothed; None before the first sample
    rtt_min: float | None
    packets_sent: int
    bytes_sent: int
    packets_received: int
    bytes_received: int
    rate: float  # bytes a second delivered over it, smoothed, while it was in use
    share: float  # of the bytes that the link sent over all paths, 0 to 1
    in_flight_bytes: int
    retransmissions: int  # packets that this path lost or kept too long
    suspected: bool  # silent: used only where no other path is left
    last_failure: str | None  # what made it suspected or down, last


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkStats:
    """One link. `drops` counts packets that were not taken, by cause."""

    peer: str
    state: str
    cipher_suite: str
    peer_key: bytes  # the public key that the peer proved to have; empty before it did
    attested: Attested | None  # what the peer proved to run; None where no policy asks
    generation: int  # handshakes completed on this link, counted from 0
    epoch: int  # rekeys of our sending direction within the generation
    handshake_seconds: float
    rtt: float | None  # lowest smoothed round trip of the usable paths
    bytes_sent: int
    bytes_received: int
    packets_sent: int
    packets_received: int
    messages_sent: int
    messages_received: int
    retransmissions: int
    spurious_retransmissions: int  # of those, where the first copy was only late
    in_flight_bytes: int
    in_flight_packets: int
    window_bytes: int
    unclaimed_messages: int
    drops: Mapping[str, int]
    paths: tuple[PathStats, ...]
