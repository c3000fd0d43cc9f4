"""The sealed, reliable link between two nodes, sans-IO (docs/spec.md 4-9).

No socket, thread, clock or task: bytes and the time come in, bytes and events
go out. `Link` is the whole interface; the other modules are its parts:

    link             packets and time, both ways
    messaging        ... its base: what a node asks about messages
    ending           ... its base: how it ends
    state            the life of a link as one table
    introduction     attempts at a handshake: who repeats, who gives up
    handshake        Noise, evidence, and the root of all keys
    keys             epochs and generations of a living link
    sender           what leaves next, sealed, over which path
    watch            deadlines: silence, expiry, probes
    receiver         the way in: verify, open in place, remember
    mailbox          what node and peer say of messages
    outbox           messages on their way out: credit, eager, rendezvous
    flight           sealed packets not yet acknowledged: round trips, delivery rate
    recovery         when one of them counts as lost, and what is asked before
    acknowledgement  what was received, and when to say so
    inbox            messages on their way in: order, placement, credit given
    pathset, paths   the paths of a link, and what is known of each
    congestion       how much may be in flight       (policy, replaceable)
    bottleneck       ... as links do it: rate times round trip
    tcp              ... as TCP does it, to compare with
    scheduler        which path a packet takes       (policy, replaceable)
    credit           who may send how much to this node, over all its links
    pool             the memory of sealed bulk packets
"""

from .credit import CreditPool
from .events import (
    Established,
    Event,
    Failed,
    MemoryFailed,
    MessageArrived,
    MessageDeclined,
    MessagePlaced,
    MessageSealed,
    MessageWithdrawn,
    PathBound,
    PeerShares,
    Warned,
)
from .express import Transmit
from .link import Link
from .state import State
from .stats import LinkStats, PathStats

__all__ = [
    "CreditPool",
    "Established",
    "Event",
    "Failed",
    "Link",
    "LinkStats",
    "MemoryFailed",
    "MessageArrived",
    "MessageDeclined",
    "MessagePlaced",
    "MessageSealed",
    "MessageWithdrawn",
    "PathBound",
    "PathStats",
    "PeerShares",
    "State",
    "Transmit",
    "Warned",
]
