"""Why a packet was dropped: the closed list of causes that counters are kept under.

Remote input never raises at a caller. Inside the link a bad packet is the
internal exception `Drop`, caught at the entrance and counted by its cause.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

REPLAY: Final = "replay"  # the number was opened before
TOO_OLD: Final = "too_old"  # the number lies behind the replay window
MALFORMED: Final = "malformed"  # not a packet or frame of this protocol
AUTHENTICATION: Final = "authentication"  # a tag, key or transcript did not verify
BAD_HELLO: Final = "bad_hello"  # the caller does not know what a peer of ours knows
REPLAYED_HELLO: Final = "replayed_hello"  # a recorded first message, sent again
UNKNOWN_PEER: Final = "unknown_peer"  # the name is not pinned
WRONG_KEY: Final = "wrong_key"  # the static key is not the pinned one
EVIDENCE: Final = "evidence"  # what the peer runs did not satisfy the policy
HALF_OPEN: Final = "half_open"  # too many unfinished handshakes; the oldest gave way
STATE: Final = "state"  # a well-formed packet that the link's state does not allow
OVERLAP: Final = "overlap"  # bytes that were already placed
EARLY: Final = "early"  # a piece of a message that is not announced yet: it comes again
DISCARDED: Final = "discarded"  # authentic bytes of a message nobody takes any more
UNKNOWN_LINK: Final = "unknown_link"  # the receiver index names no link of this node
VERSION: Final = "version"  # another protocol version
LIMIT: Final = "limit"  # a named limit of Config was reached
SHARED_MEMORY: Final = "shared_memory"  # a peer is on this host, and memory is not to be had


class Drop(Exception):  # noqa: N818 - it is a verdict, not an error of anybody here
    """A packet from the network is not taken; carries only its cause."""

    def __init__(self, cause: str, *, opened: bool = False) -> None:
        super().__init__(cause)
        self.cause = cause
        self.opened = opened  # it is authentic all the same, and will be acknowledged


class Drops(Counter[str]):
    """Counts by cause."""
