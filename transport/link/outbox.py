"""Messages on their way out: order, credit, eager and rendezvous (docs/spec.md 8).

Message ids rise by one and frames announce them in that order, which is the
order the receiver matches in. A small message is copied behind its EAGER head
into the draft of the next packet. A large one is announced; its bytes stay in
the caller's memory until the receiver grants them and a bulk packet seals them
from there. Every unclaimed message costs credit, so a receiver that does not
receive makes the sender wait instead of running out of memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import Enum, auto
from typing import Final

from ..errors import UsageError
from ..wire import frames

TURN: Final = 16 * 1024 * 1024  # bytes of a large message before the next one has its turn
MESSAGE_COST: Final = 256  # credit an unclaimed message takes beside its payload


class Stage(Enum):
    """How far an outgoing message has come."""

    WAITING = auto()  # for credit
    ANNOUNCED = auto()  # its grant is awaited, or its bytes are being sealed
    SEALED = auto()  # the caller's buffer is free
    ENDED = auto()  # withdrawn, declined, or the link failed


class OutgoingMessage:
    """One message as its sender's link sees it; `owner` is the node's business."""

    __slots__ = (
        "context",
        "data",
        "description",
        "follows",
        "granted",
        "id",
        "offset",
        "owner",
        "size",
        "stage",
        "tag",
    )

    def __init__(
        self, number: int, data: memoryview, description: bytes, context: int, tag: int
    ) -> None:
        self.id = number
        self.data: memoryview | None = data
        self.size = len(data)
        self.description = description
        self.context = context
        self.tag = tag
        self.stage = Stage.WAITING
        self.offset = 0  # bytes sealed so far
        self.granted = 0  # bytes the receiver is ready for
        self.follows = False  # it is announced in front of its bytes, which are not asked for
        self.owner: object = None


class Draft:
    """The frames of a packet that is not sealed yet."""

    __slots__ = ("frames", "messages", "urgent")

    def __init__(self) -> None:
        self.frames = bytearray()
        self.messages: list[int] = []  # eager messages inside
        self.urgent = False  # holds a control frame, which never waits for company


class Outbox:
    """Everything a link has been given to send and has not sealed."""

    __slots__ = (
        "_announced",
        "_capacity",
        "_credit",
        "_eager_reserve",
        "_next_id",
        "_spent",
        "_unsettled",
        "_waiting",
        "drafts",
        "eager_limit",
        "follow_limit",
        "messages_sent",
        "sealing",
    )

    def __init__(
        self, *, eager_limit: int, capacity: int, credit: int, follow_limit: int = 0
    ) -> None:
        self.eager_limit = eager_limit
        self.follow_limit = follow_limit  # a larger message waits for a grant
        self._capacity = capacity  # bytes of frames in one packet
        self._credit = credit  # what unclaimed messages may cost, over the link's life
        self._spent = 0
        # Half of the credit is kept for announcements, so that a receiver which
        # waits for a later message still learns of it behind unclaimed small ones.
        self._eager_reserve = credit >> 1
        self._next_id = 0
        self._waiting: deque[OutgoingMessage] = deque()
        self._announced: dict[int, OutgoingMessage] = {}
        self._unsettled: dict[int, int] = {}  # message id -> parts not acknowledged, ascending
        self.drafts: deque[Draft] = deque()
        self.sealing: deque[OutgoingMessage] = deque()
        """Granted messages with bytes left to seal; served in turns of `TURN` bytes."""
        self.messages_sent = 0

    def post(
        self, data: memoryview, description: bytes, context: int, tag: int
    ) -> OutgoingMessage | None:
        """Take a message; None where it was copied, so that its buffer is free already.

        Raises:
            UsageError: the wire has no room for this description, context or tag.
        """
        self._check(description, context, tag)
        number = self._next_id
        self._next_id = number + 1
        self._unsettled[number] = 1
        self.messages_sent += 1
        size = len(data)
        if not self._waiting and self._may_be_eager(size):
            self._spent += size + MESSAGE_COST
            self._emit_eager(number, data, description, context, tag)
            return None
        message = OutgoingMessage(number, data, description, context, tag)
        if self._waiting or not self._admit(message):
            self._waiting.append(message)
        return message

    def post_now(self, size: int, description: bytes, context: int, tag: int) -> int:
        """The id of a message that the caller seals at once, whole; -1 where it must wait.

        Its size is within the limit for what follows unasked.

        Raises: as `post`.
        """
        spent = self._spent + size + MESSAGE_COST
        if self._waiting or spent > self._credit - self._eager_reserve:
            return -1
        if len(description) > frames.MAX_DESCRIPTION or context >> 32 or tag >> 64:
            self._check(description, context, tag)
        number = self._next_id
        self._next_id = number + 1
        self._unsettled[number] = 1
        self.messages_sent += 1
        self._spent = spent
        return number

    @staticmethod
    def _check(description: bytes, context: int, tag: int) -> None:
        # Before an id is spent: a gap in the ids would hold up every later message.
        if len(description) > frames.MAX_DESCRIPTION or context >> 32 or tag >> 64:
            raise UsageError(
                f"a message takes a description of {frames.MAX_DESCRIPTION} bytes, a context of "
                f"32 bits and a tag of 64, got {len(description)} bytes, {context} and {tag}"
            )

    def _may_follow(self, size: int) -> bool:
        left = self._credit - self._spent - self._eager_reserve
        return self.eager_limit < size <= self.follow_limit and size + MESSAGE_COST <= left

    def _may_be_eager(self, size: int) -> bool:
        left = self._credit - self._spent - self._eager_reserve
        return size <= self.eager_limit and size + MESSAGE_COST <= left

    def _admit(self, message: OutgoingMessage) -> bool:
        """Emit the first frame of a message that waited, if credit allows it."""
        if message.stage is Stage.WAITING and self._may_be_eager(message.size):
            assert message.data is not None
            self._spent += message.size + MESSAGE_COST
            self._emit_eager(
                message.id, message.data, message.description, message.context, message.tag
            )
            message.data = None
            message.offset = message.size
            message.stage = Stage.SEALED
            return True
        if message.stage is Stage.WAITING and self._may_follow(message.size):
            # It fits a packet, and the peer has room for it: it need not be asked for.
            self._spent += message.size + MESSAGE_COST
            message.stage = Stage.ANNOUNCED
            message.follows, message.granted = True, message.size
            self._announced[message.id] = message
            self.sealing.append(message)
            return True
        if self._credit - self._spent < MESSAGE_COST:
            return False
        self._spent += MESSAGE_COST
        if message.stage is Stage.ENDED:
            self.control(frames.encode_withdraw(message.id))
            return True
        self._emit_announcement(message)
        return True

    def _emit_eager(
        self, number: int, data: memoryview, description: bytes, context: int, tag: int
    ) -> None:
        size = len(data)
        head = frames.encode_eager_head(number, context, tag, description, size)
        draft = self._draft_for(len(head) + size)
        draft.frames += head
        if size:
            draft.frames += data
        draft.messages.append(number)

    def _emit_announcement(self, message: OutgoingMessage) -> None:
        self.control(
            frames.encode_announce(
                message.id, message.context, message.tag, message.description, message.size
            )
        )
        message.stage = Stage.ANNOUNCED
        self._announced[message.id] = message

    def _draft_for(self, size: int) -> Draft:
        if not self.drafts or len(self.drafts[-1].frames) + size > self._capacity:
            self.drafts.append(Draft())
        return self.drafts[-1]

    def control(self, frame: bytes) -> None:
        """Queue frames that are repeated until acknowledged and never wait; one packet has all."""
        if not frame:
            return
        draft = self._draft_for(len(frame))
        draft.frames += frame
        draft.urgent = True

    def on_credit(self, limit: int) -> list[OutgoingMessage]:
        """The receiver has room for more; credit never shrinks.

        Returns the waiting messages whose buffers that frees.
        """
        self._credit = max(self._credit, limit)
        waiting = self._waiting
        freed: list[OutgoingMessage] = []
        while waiting and self._admit(waiting[0]):
            message = waiting.popleft()
            if message.stage is Stage.SEALED:
                freed.append(message)
        return freed

    def on_grant(self, number: int, limit: int) -> OutgoingMessage | None:
        """The receiver takes bytes of a message below `limit`.

        Returns the message where that finishes it at once, because it is empty.
        """
        message = self._announced.get(number)
        if message is None or limit <= message.granted:
            if message is None or message.size or message.stage is Stage.SEALED:
                return None
            self._seal_finished(message)
            return message
        if message.offset >= message.granted:
            self.sealing.append(message)
        message.granted = min(limit, message.size)
        return None

    def on_decline(self, number: int) -> OutgoingMessage | None:
        """The receiver takes no more of a message; return it if it was under way."""
        message = self._announced.get(number)
        if message is not None:
            self._end(message)
        return message

    def withdraw(self, message: OutgoingMessage) -> bool:
        """Take a message back unless its buffer is already free; tell the peer if it knows."""
        if message.stage is Stage.WAITING:
            # It keeps its turn: ids must arrive without a gap.
            message.stage = Stage.ENDED
            message.data = None
            self._unsettled.pop(message.id, None)
            return True
        if message.stage is not Stage.ANNOUNCED:
            return False
        self._end(message)
        self.control(frames.encode_withdraw(message.id))
        return True

    def _end(self, message: OutgoingMessage) -> None:
        if message.follows and not message.offset:
            self._spent -= message.size  # the peer will never hold it
        message.stage = Stage.ENDED
        message.data = None
        del self._announced[message.id]
        if message in self.sealing:
            self.sealing.remove(message)
        self._unsettled.pop(message.id, None)

    def next_piece(
        self, limit: int, midway: int = 0
    ) -> tuple[OutgoingMessage, int, memoryview] | None:
        """The next piece of at most `limit` bytes to seal: message, offset and bytes.

        Of at most `midway` in the midst of a message: while the first piece is sealed the
        receiver has nothing to open, and while it opens the last one the sender is done.
        """
        if not self.sealing:
            return None
        message = self.sealing[0]
        assert message.data is not None  # ended messages leave the queue at once
        is_long = message.size >= 4 * midway > 4 * limit
        if is_long and message.offset and message.size - message.offset >= midway + limit:
            limit = midway
        end = min(message.offset + limit, message.granted)
        return message, message.offset, message.data[message.offset : end]

    def piece_sealed(self, message: OutgoingMessage, size: int) -> bool:
        """Record that the piece last returned was sealed; True when that was the last one."""
        turn = message.offset // TURN
        message.offset += size
        self._unsettled[message.id] += 1
        if message.offset >= message.size:
            self.sealing.popleft()
            self._seal_finished(message)
            return True
        if message.offset >= message.granted:
            self.sealing.popleft()
        elif message.offset // TURN != turn:
            self.sealing.rotate(-1)
        return False

    def _seal_finished(self, message: OutgoingMessage) -> None:
        message.stage = Stage.SEALED
        message.data = None
        del self._announced[message.id]
        self.settle((message.id,))

    def settle(self, numbers: Sequence[int]) -> None:
        """One part of each of these messages was acknowledged."""
        unsettled = self._unsettled
        for number in numbers:
            parts = unsettled.get(number)
            if parts is None:
                continue
            if parts > 1:
                unsettled[number] = parts - 1
            else:
                del unsettled[number]

    @property
    def last_id(self) -> int:
        """Id of the message posted last; -1 where none was."""
        return self._next_id - 1

    @property
    def settled_through(self) -> int:
        """Every message up to this id has ended or was acknowledged whole."""
        for number in self._unsettled:
            return number - 1
        return self._next_id - 1

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be sealed or granted."""
        return not (self.drafts or self._waiting or self._announced)

    def fail(self) -> list[OutgoingMessage]:
        """The link has ended: forget everything; return the messages whose buffers were held."""
        ended = [*self._waiting, *self._announced.values()]
        for message in ended:
            message.stage = Stage.ENDED
            message.data = None
        self._waiting.clear()
        self._announced.clear()
        self._unsettled.clear()
        self.sealing.clear()
        self.drafts.clear()
        return ended
