"""The way in: from a sealed packet to authenticated frames and bytes in place (docs/spec.md 6, 8).

The order of checks is what makes opening in place safe: the number was not seen
before, the bytes were not filled before, then open, and only then remember
both. A forged packet can scribble only on bytes that are not yet delivered,
and the genuine packet overwrites them. What is checked of a header is a copy of it, and
so is what is authenticated: a packet in shared memory may change meanwhile.
"""

from __future__ import annotations

from ..crypto.seal import Opener
from ..errors import AuthenticationError
from ..wire.packet import BULK_HEADER, BULK_OVERHEAD, FRAMES_HEADER, FRAMES_OVERHEAD
from .acknowledgement import Acknowledgements
from .credit import Account
from .drops import AUTHENTICATION, EARLY, MALFORMED, STATE, Drop
from .inbox import Inbox, IncomingMessage
from .keys import Keys


class Receiver:
    """Opens packets of a link and knows what has arrived."""

    __slots__ = (
        "_acknowledgements",
        "account",
        "bytes_received",
        "inbox",
        "keys",
        "last_received",
        "packets_received",
    )

    def __init__(self, inbox: Inbox, acknowledgements: Acknowledgements, now: float) -> None:
        self.inbox = inbox
        self._acknowledgements = acknowledgements
        self.keys: Keys | None = None
        self.account: Account | None = None
        self.packets_received = self.bytes_received = 0
        self.last_received = now
        """When the last authentic packet came: the peer lived then."""

    def open_frames(self, packet: bytes | memoryview, now: float) -> bytes:
        """The frames of a FRAMES packet.

        Raises:
            Drop: malformed, seen before, or not authentic; nothing has changed.
        """
        size = len(packet)
        if size < FRAMES_OVERHEAD:
            raise Drop(MALFORMED)
        if self.keys is None:
            raise Drop(STATE)
        opener = self.keys.opener
        header = bytes(packet[: FRAMES_HEADER.size])
        number: int = FRAMES_HEADER.unpack(header)[4]
        cause = opener.verdict(number)
        if cause is not None:
            raise Drop(cause)
        try:
            payload = opener.open_frames(packet, header)
        except AuthenticationError:
            raise Drop(AUTHENTICATION) from None
        self._opened(number, size, now)
        return payload

    def open_piece(self, packet: memoryview, now: float) -> IncomingMessage | None:
        """Open a BULK packet into its place; return its message once that is whole.

        Raises:
            Drop: malformed, seen before or not authentic; or authentic and of no use.
        """
        size = len(packet) - BULK_OVERHEAD
        if size <= 0:
            raise Drop(MALFORMED)
        header = bytes(packet[: BULK_HEADER.size])
        _, _, _, _, number, message_id, offset = BULK_HEADER.unpack(header)
        opener = self._opener_for(number)
        useless = STATE
        message: IncomingMessage | None = None
        try:
            message, destination = self.inbox.slot_for(message_id, offset, size)
        except Drop as drop:
            if drop.cause == EARLY:
                raise
            # Opened all the same, aside: if it is authentic its sender needs the ack.
            # The cause, not the exception: that would keep this frame, and the memory
            # with it, until the garbage collector comes by.
            useless, destination = drop.cause, memoryview(bytearray(size))
        try:
            opener.open_bulk_into(packet, destination, header)
        except AuthenticationError:
            raise Drop(AUTHENTICATION) from None
        self._opened(number, len(packet), now)
        self._acknowledgements.owe(len(packet), now)
        if message is None:
            raise Drop(useless, opened=True)
        whole = self.inbox.placed(message, offset, size)
        if self.account is not None and not message.follows:
            self.account.arrived(size, now)
        return message if whole else None

    def _opener_for(self, number: int) -> Opener:
        """The opener, for a number it has not seen; a repeated one goes no further."""
        if self.keys is None:
            raise Drop(STATE)
        opener = self.keys.opener
        cause = opener.verdict(number)
        if cause is not None:
            raise Drop(cause)
        return opener

    def _opened(self, number: int, size: int, now: float) -> None:
        self.last_received = now
        self.packets_received += 1
        self.bytes_received += size
        self._acknowledgements.received(number)
