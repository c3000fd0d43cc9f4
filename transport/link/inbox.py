"""Messages on their way in: sender's order, placement, credit given (docs/spec.md 8).

Packets and bulk data arrive in any order; messages are handed on in the order
of their ids. A large message waits, announced, until the node accepts it with
the memory its bytes shall be opened into. What may wait here is bounded by the
credit that this side gave, and a peer that exceeds it ends the link.
"""

from __future__ import annotations

from typing import Final

from ..crypto.replay import WINDOW
from ..errors import PeerLostError
from ..wire.frames import (
    ANNOUNCE_HEAD,
    ANNOUNCE_OVERHEAD,
    EAGER,
    EAGER_HEAD,
    EAGER_OVERHEAD,
    FOLLOW,
    MAX_DESCRIPTION,
    Announce,
    Eager,
)
from .drops import DISCARDED, EARLY, MALFORMED, OVERLAP, Drop
from .outbox import MESSAGE_COST
from .ranges import RangeSet

COPIED: Final = 1024  # bytes that are copied as fast as a view of them is made
MAX_GAPS: Final = WINDOW  # no honest sender has more pieces of a message in flight


class IncomingMessage:
    """One message as its receiver's link sees it; `owner` is the node's business."""

    __slots__ = (
        "_cost",
        "accepted",
        "context",
        "description",
        "destination",
        "filled",
        "follows",
        "granted",
        "id",
        "owner",
        "payload",
        "size",
        "tag",
        "withdrawn",
    )

    def __init__(
        self,
        number: int,
        context: int,
        tag: int,
        description: bytes,
        payload: memoryview | bytes | None,
        size: int,
        cost: int,
    ) -> None:
        self.id = number
        self.context = context
        self.tag = tag
        self.description = description
        self.payload = payload
        """The bytes of a small message, perhaps in memory shared with its packet; else `None`."""
        self.size = size
        self.destination: memoryview | None = None  # where bulk packets are opened into
        self.filled: RangeSet | None = None  # bytes that are authenticated and in place, if any
        self.granted = 0  # the sender was told that it may send the bytes below
        self.follows = False  # they come without, and are kept until the message is accepted
        self.accepted = False
        self.withdrawn = False
        self.owner: object = None
        self._cost = cost

    @property
    def placed(self) -> int:
        """Bytes that are authenticated and in place, of a message that is not yet whole."""
        return 0 if self.filled is None else self.filled.total

    def take_cost(self) -> int:
        """The credit this message holds, once; 0 ever after."""
        cost, self._cost = self._cost, 0
        return cost


class Inbox:
    """Everything a peer has announced and this node has not finished taking."""

    __slots__ = (
        "_charged",
        "_credit_span",
        "_granted_credit",
        "_held",
        "_next_id",
        "_open",
        "_released",
        "messages_received",
    )

    def __init__(self, *, credit: int) -> None:
        self._credit_span = credit
        self._granted_credit = credit  # as the peer was told, over the link's life
        self._charged = 0
        self._released = 0
        self._next_id = 0
        self._held: dict[int, IncomingMessage | None] = {}  # arrived before its turn
        self._open: dict[int, IncomingMessage] = {}  # announced, not ended
        self.messages_received = 0

    @property
    def unclaimed(self) -> int:
        """Large messages that are not placed, and whatever waits for its turn."""
        return len(self._open) + sum(number not in self._open for number in self._held)

    def _charge(self, cost: int) -> None:
        self._charged += cost
        if self._charged > self._granted_credit:
            raise PeerLostError(
                f"the peer sent {self._charged} bytes of unclaimed messages "
                f"where {self._granted_credit} were allowed"
            )

    def _is_new(self, number: int) -> bool:
        return number >= self._next_id and number not in self._held

    def predicted(self, frames: bytes, start: int) -> tuple[IncomingMessage, int] | None:
        """The message, and where it ends, if the frame at `start` is a small one in turn.

        Nearly every frame is such a one, so it is parsed at one go; for any other, a
        malformed one included, None is returned and nothing has changed.

        Raises:
            PeerLostError: the peer exceeded its credit.
        """
        told = start + EAGER_OVERHEAD
        if told > len(frames) or frames[start] != EAGER or self._held:
            return None
        _, number, context, tag, described, size = EAGER_HEAD.unpack_from(frames, start)
        body = told + described
        end = body + size
        if number != self._next_id or end > len(frames) or described > MAX_DESCRIPTION:
            return None
        cost = size + MESSAGE_COST
        self._charged += cost
        if self._charged > self._granted_credit:
            self._charge(0)
        self._next_id = number + 1
        self.messages_received += 1
        payload = frames[body:end] if size <= COPIED else memoryview(frames)[body:end]
        description = frames[told:body]
        return IncomingMessage(number, context, tag, description, payload, size, cost), end

    def announced(self, frames: bytes) -> tuple[IncomingMessage, int] | None:
        """As `predicted`, for the announcement in front of a message's bytes.

        Raises:
            PeerLostError: the peer exceeded its credit.
        """
        if len(frames) < ANNOUNCE_OVERHEAD or frames[0] != FOLLOW or self._held:
            return None
        _, number, context, tag, described, size = ANNOUNCE_HEAD.unpack_from(frames)
        end = ANNOUNCE_OVERHEAD + described
        if number != self._next_id or end > len(frames) or described > MAX_DESCRIPTION:
            return None
        cost = MESSAGE_COST + size
        self._charge(cost)
        self._next_id = number + 1
        self.messages_received += 1
        description = frames[ANNOUNCE_OVERHEAD:end]
        message = IncomingMessage(number, context, tag, description, None, size, cost)
        message.follows, message.granted = True, size
        self._open[number] = message
        return message, end

    def on_eager(self, frame: Eager) -> list[IncomingMessage]:
        """Take a small message; return what is now in turn.

        Raises:
            PeerLostError: the peer exceeded its credit.
        """
        if not self._is_new(frame.message):
            return []
        cost = len(frame.payload) + MESSAGE_COST
        self._charge(cost)
        number, context, tag, description, payload = frame
        if number != self._next_id or self._held:
            payload = bytes(payload)  # held back, it must not keep the whole packet's memory
        message = IncomingMessage(number, context, tag, description, payload, len(payload), cost)
        return self._arrive(number, message)

    def on_announce(self, frame: Announce) -> list[IncomingMessage]:
        """Take the announcement of a large message; return what is now in turn.

        Raises:
            PeerLostError: the peer exceeded its credit.
        """
        if not self._is_new(frame.message):
            return []
        cost = MESSAGE_COST + frame.size if frame.follows else MESSAGE_COST
        self._charge(cost)
        number, context, tag, description, size, follows = frame
        message = IncomingMessage(number, context, tag, description, None, size, cost)
        if follows:
            message.follows, message.granted = True, size
        self._open[message.id] = message
        return self._arrive(message.id, message)

    def on_withdraw(self, number: int) -> tuple[IncomingMessage | None, list[IncomingMessage]]:
        """The sender takes a message back: return it if it was announced, and what is in turn.

        Raises:
            PeerLostError: the peer exceeded its credit.
        """
        message = self._open.pop(number, None)
        if message is not None:
            message.withdrawn = True
            message.destination = None
            if number not in self._held:
                self.release(message)
                return message, []
            self._held[number] = None
            return None, []
        if not self._is_new(number):
            return None, []
        self._charge(MESSAGE_COST)
        return None, self._arrive(number, None)

    def _arrive(self, number: int, message: IncomingMessage | None) -> list[IncomingMessage]:
        held = self._held
        held[number] = message
        in_turn: list[IncomingMessage] = []
        while self._next_id in held:
            following = held.pop(self._next_id)
            self._next_id += 1
            if following is None:
                # Not before its turn: ids withdrawn ahead of a gap are remembered until
                # it closes, so they must cost what they hold.
                self._released += MESSAGE_COST
            else:
                self.messages_received += 1
                in_turn.append(following)
        return in_turn

    def accept(self, message: IncomingMessage, destination: memoryview) -> bool:
        """Open the bytes of an announced message into `destination`; True if all are there.

        That is where it is empty, or where it came before it was accepted.
        """
        self.release(message)
        if message.withdrawn:
            return False
        message.accepted = True
        if message.size == 0:
            self._open.pop(message.id, None)
            return True
        kept, message.destination = message.destination, destination
        if kept is None:
            return False
        destination[:] = kept
        if message.id in self._open:
            return False
        message.destination = None
        return True

    def decline(self, message: IncomingMessage) -> bool:
        """Take no more bytes of a message; False where it had ended already."""
        self.release(message)
        message.destination = None
        return self._open.pop(message.id, None) is not None

    def release(self, message: IncomingMessage) -> bool:
        """The message no longer waits: its credit may be given anew; True where much is due."""
        self._released += message.take_cost()
        return self._released + self._credit_span - self._granted_credit >= self._credit_span >> 3

    def credit_due(self) -> int | None:
        """A new cumulative limit once an eighth of the credit was released, else `None`."""
        limit = self._released + self._credit_span
        if limit - self._granted_credit < self._credit_span >> 3:
            return None
        self._granted_credit = limit
        return limit

    def slot_for(self, number: int, offset: int, size: int) -> tuple[IncomingMessage, memoryview]:
        """Where a bulk packet belongs, before it is authenticated.

        Raises:
            Drop: nobody takes this message, or bytes there are in place already.
        """
        message = self._open.get(number)
        if message is None:
            # Its announcement may have been overtaken: then it is not to be acknowledged.
            raise Drop(EARLY if self._is_new(number) else DISCARDED)
        if message.destination is None and message.follows:
            message.destination = memoryview(bytearray(message.size))
        destination, filled = message.destination, message.filled
        if destination is None:
            raise Drop(DISCARDED)
        end = offset + size
        if end > message.granted:
            raise Drop(MALFORMED)
        if filled is not None and filled.overlaps(offset, end):
            raise Drop(OVERLAP)
        return message, destination if size == message.size else destination[offset:end]

    def placed(self, message: IncomingMessage, offset: int, size: int) -> bool:
        """Record authenticated bytes; True once the message is whole."""
        if size < message.size:
            filled = message.filled
            if filled is None:
                filled = message.filled = RangeSet()
            filled.add(offset, offset + size)
            if len(filled) > MAX_GAPS:
                text = f"the peer sends a message in more than {MAX_GAPS} pieces at once"
                raise PeerLostError(text)
            if filled.total < message.size:
                return False
        del self._open[message.id]
        if message.accepted:
            message.destination = None
        return True

    def fail(self) -> list[IncomingMessage]:
        """The link has ended; return the messages that can no longer be placed."""
        ended = list(self._open.values())
        for message in ended:
            message.withdrawn = True
            message.destination = None
        self._open.clear()
        self._held.clear()
        return ended
