"""The messages of a link, both ways: what the node asks, what frames say of them (spec 8)."""

from __future__ import annotations

from collections import deque

from ..wire import frames
from .credit import NEVER, Account
from .events import (
    Event,
    MessageArrived,
    MessageDeclined,
    MessageSealed,
    MessageWithdrawn,
)
from .inbox import Inbox, IncomingMessage
from .outbox import OutgoingMessage
from .sender import Sender


class Mailbox:
    """Joins outbox and inbox, and turns frames about messages into events.

    Once the link has ended, nothing that its node still says has any effect.
    """

    __slots__ = ("_closed", "_events", "_inbox", "_sender", "account")

    def __init__(self, sender: Sender, inbox: Inbox, events: deque[Event]) -> None:
        self._sender = sender
        self._inbox = inbox
        self._events = events
        self._closed = False
        self.account: Account | None = None
        """Where grants come from; without one every message is granted whole at once."""

    def withdraw(self, message: OutgoingMessage) -> bool:
        """Take back a message whose buffer is not free; False where it is too late."""
        return not self._closed and self._sender.outbox.withdraw(message)

    def accept(self, message: IncomingMessage, destination: memoryview) -> bool:
        """Open an announced message's bytes into `destination`; True if all are there."""
        whole = self._inbox.accept(message, destination)
        if self._closed:
            return whole  # what had come without being asked for was delivered, and is kept
        if message.follows:
            pass  # it waits for no grant
        elif message.destination is not None and self.account is not None:
            self.account.accept(message)
        else:
            message.granted = message.size
            self.grant(message)
        self._give_credit()
        return whole

    def grant(self, message: IncomingMessage) -> None:
        """Tell the sender how far it may go."""
        self._sender.outbox.control(frames.encode_grant(message.id, message.granted))

    @property
    def due(self) -> float:
        """When `look` wants to be called."""
        return NEVER if self.account is None else self.account.look_at

    def look(self, now: float) -> None:
        """Time has passed: senders that stand still may have made room."""
        if self.account is not None:
            self.account.look(now)

    def close(self) -> None:
        """The link has ended: nothing that was granted will come."""
        self._closed = True
        if self.account is not None:
            self.account.close()

    def _ended(self, message: IncomingMessage) -> None:
        if self.account is not None and not message.follows:
            self.account.ended(message)

    def release(self, message: IncomingMessage) -> bool:
        """A small message was consumed: its credit may be used again; True to tell the peer so."""
        if self._closed or not self._inbox.release(message):
            return False
        self._give_credit()
        return True

    def decline(self, message: IncomingMessage) -> None:
        """Take no further byte of an announced message; its sender is told."""
        if not self._closed and self._inbox.decline(message):
            self._ended(message)
            self._sender.outbox.control(frames.encode_decline(message.id))
            self._give_credit()

    def _give_credit(self) -> None:
        limit = self._inbox.credit_due()
        if limit is not None:
            self._sender.outbox.control(frames.encode_credit(limit))

    def on_eager(self, frame: frames.Eager) -> None:
        """Take a small message.

        Raises:
            PeerLostError: the peer exceeded its credit.
        """
        arrived = self._inbox.on_eager(frame)
        self._events.extend(map(MessageArrived, arrived))
        self._give_credit()  # of what was withdrawn behind it

    def on_frame(self, frame: frames.Frame) -> bool:
        """Take a frame about a message; False where it is about something else.

        Raises:
            PeerLostError: the peer exceeded its credit.
        """
        events, outbox = self._events, self._sender.outbox
        match frame:
            case frames.Eager():
                self.on_eager(frame)
            case frames.Announce():
                events.extend(map(MessageArrived, self._inbox.on_announce(frame)))
                self._give_credit()
            case frames.Grant():
                finished = outbox.on_grant(frame.message, frame.limit)
                if finished is not None:
                    events.append(MessageSealed(finished))
            case frames.Credit():
                events.extend(map(MessageSealed, outbox.on_credit(frame.limit)))
            case frames.Withdraw():
                withdrawn, in_turn = self._inbox.on_withdraw(frame.message)
                if withdrawn is not None:
                    self._ended(withdrawn)
                    events.append(MessageWithdrawn(withdrawn))
                events.extend(map(MessageArrived, in_turn))
                self._give_credit()
            case frames.Decline():
                declined = outbox.on_decline(frame.message)
                if declined is not None:
                    events.append(MessageDeclined(declined))
            case _:
                return False
        return True
