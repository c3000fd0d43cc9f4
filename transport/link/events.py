"""What a link tells its owner, through `Link.poll_event`.

The three events of the hot path are named tuples, which cost half of a frozen dataclass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ..errors import TransportError

if TYPE_CHECKING:
    from .inbox import IncomingMessage
    from .outbox import OutgoingMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class Established:
    """Both sides hold application keys; messages may flow."""

    peer: str


class MessageArrived(NamedTuple):
    """The next message in the sender's order.

    A small one holds its payload; for a large one call `Link.accept` with the
    memory its bytes shall be opened into.
    """

    message: IncomingMessage


class MessagePlaced(NamedTuple):
    """Every byte of an accepted message is authenticated and in its destination."""

    message: IncomingMessage


@dataclass(frozen=True, slots=True)
class MessageWithdrawn:
    """The sender took the message back; its destination's content is undefined."""

    message: IncomingMessage


class MessageSealed(NamedTuple):
    """Every byte was read; the sender's buffer may be reused."""

    message: OutgoingMessage


@dataclass(frozen=True, slots=True)
class MessageDeclined:
    """The receiver stopped taking a message that it had begun to take."""

    message: OutgoingMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class PathBound:
    """Packets from the transport's `handle` belong to path `index` of this link."""

    index: int
    handle: object


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerShares:
    """What the peer's node says of memory that both could share; only this node reads it."""

    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFailed:
    """A packet that came through shared memory did not open: its owner must end that path.

    Nothing repeats what is lost there, so what has lost one packet carries no more.
    """

    handle: object
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """Something an operator should read in the log."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The link is closed; the messages still under way, given here, end with `error`."""

    error: TransportError
    outgoing: tuple[OutgoingMessage, ...] = ()
    incoming: tuple[IncomingMessage, ...] = ()
    settled_through: int = -1  # messages up to this id were delivered before the end


Event = (
    Established
    | MessageArrived
    | MessagePlaced
    | MessageWithdrawn
    | MessageSealed
    | MessageDeclined
    | PathBound
    | PeerShares
    | MemoryFailed
    | Warned
    | Failed
)
