"""What a node asks of a link about messages and memory; the rest of a link's life is in link.py."""

from __future__ import annotations

from collections import deque

from ..errors import ClosedError
from ..wire import frames
from .events import Event
from .express import Transmit
from .inbox import IncomingMessage
from .keys import Keys
from .mailbox import Mailbox
from .outbox import OutgoingMessage
from .sender import Sender
from .state import State


class Messaging:
    """The base of `Link`, which makes the parts that are named here."""

    peer: str
    state: State
    _behind: object
    _keys: Keys | None
    _events: deque[Event]
    _mailbox: Mailbox
    _sender: Sender

    # --- sending ---------------------------------------------------------------------

    def send(
        self, data: memoryview, description: bytes, *, context: int, tag: int
    ) -> OutgoingMessage | None:
        """Queue a message of flat bytes.

        Returns None where the bytes were copied, so that the buffer is free
        already; else `events.MessageSealed` or `MessageDeclined` will tell of it.

        Raises:
            ClosedError: the link is not open.
        """
        if self.state is not State.OPEN:
            raise ClosedError(f"link to {self.peer!r} is {self.state.name.lower()}")
        return self._sender.outbox.post(data, description, context, tag)

    def express(
        self, data: memoryview, description: bytes, context: int, tag: int, now: float
    ) -> Transmit | None:
        """The packet of a small message that can leave at once; None where `send` must take it.

        It can where nothing else waits to leave: then there is no need to ask what is
        first. So no event, draft or queue is between such a message and its packet.
        Whoever takes it sends it and calls `expressed`, whether or not it could be sent.
        """
        keys = self._keys
        if keys is None or self.state is not State.OPEN:
            return None
        return self._sender.express(keys, data, description, context, tag, now)

    def expressed(self, now: float) -> None:
        """The packet that `express` returned has been sent: it is in flight."""
        self._sender.expressed(now)

    def withdraw(self, message: OutgoingMessage) -> bool:
        """Take back a message whose buffer is not free; False where it is too late."""
        return self._mailbox.withdraw(message)

    @property
    def last_message(self) -> int:
        """Id of the message queued last; -1 before the first."""
        return self._sender.outbox.last_id

    @property
    def settled_through(self) -> int:
        """Every message up to this id was delivered and acknowledged, or has ended."""
        return self._sender.outbox.settled_through

    @property
    def wants_service(self) -> bool:
        """Whether there may be events or packets to poll, or something was delivered."""
        return (
            bool(self._events)
            or self._behind is not None
            or self._sender.wants_service
            or self.state is not State.OPEN
        )

    # --- receiving -------------------------------------------------------------------

    def release(self, message: IncomingMessage) -> bool:
        """A small message was consumed: its credit may be used again; True to tell the peer so."""
        return self._mailbox.release(message)

    def decline(self, message: IncomingMessage) -> None:
        """Take no further byte of an announced message; its sender is told."""
        self._mailbox.decline(message)

    # --- memory that both processes could share --------------------------------------

    def share(self, body: bytes) -> None:
        """Tell the peer's node something of it."""
        if self.state is State.OPEN:
            self._sender.outbox.control(frames.encode_share(body))
