"""Claims: one expected message each, handed to its taker without a receive of its own.

A receive has a buffer, a handle and a place in line, and costs more than a small message
itself. Who knows exactly what comes next, as a collective operation does, claims it: by
source, context and tag, with the number of bytes. A small message is handed over where it
was opened, in the memory of its packet; a large one in memory that is made for it. Every
claim ends once: taken, failed, or given up.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import PeerRefusedError, TransportError
from ..link import Link
from ..link.inbox import IncomingMessage

Key = tuple[int, str, int]
Taken = Callable[[Link, bytes, "memoryview | bytes"], None]


class Claim:
    """One message that is expected; `taken` gets its link, its description and its bytes.

    The bytes may be looked at until `taken` returns. A large message of another size than
    expected is declined, and `taken` gets no bytes.
    """

    __slots__ = ("_incoming", "_link", "_memory", "ended", "failed", "key", "size", "taken")

    def __init__(
        self, key: Key, size: int, taken: Taken, failed: Callable[[TransportError], None]
    ) -> None:
        self.key = key
        self.size = size
        self.taken = taken
        self.failed = failed
        self.ended = False
        """Whether its message was handed over; nothing more will be."""
        self._link: Link | None = None  # while its bytes are being placed
        self._incoming: IncomingMessage | None = None
        self._memory = memoryview(b"")

    def hand_over(self, link: Link, incoming: IncomingMessage) -> None:
        """Its message has come, or was announced."""
        payload = incoming.payload
        if payload is not None:
            self.ended = True
            link.release(incoming)
            self.taken(link, incoming.description, payload)
        elif incoming.size != self.size:
            self.ended = True
            link.decline(incoming)
            self.taken(link, incoming.description, b"")
        else:
            self._link, self._incoming = link, incoming
            self._memory = memoryview(bytearray(self.size))
            incoming.owner = self
            if link.accept(incoming, self._memory):
                self.placed()

    def placed(self) -> None:
        """Every byte of a large message is there."""
        link, incoming, self._link, self._incoming = self._link, self._incoming, None, None
        if link is not None and incoming is not None:
            self.ended = True
            self.taken(link, incoming.description, self._memory)

    def withdrawn(self) -> None:
        """The sender took a large message back."""
        self._link = self._incoming = None
        self.failed(PeerRefusedError(f"{self.key[1]!r} withdrew a message"))

    def let_go(self) -> Link | None:
        """Nothing may be written or handed over any more; the link that was told so."""
        link, incoming = self._link, self._incoming
        self._link = self._incoming = None
        if link is not None and incoming is not None:
            incoming.owner = None
            link.decline(incoming)
        return link


class Claims:
    """The claims of one node that wait for their message."""

    def __init__(self) -> None:
        self._waiting: dict[Key, Claim] = {}

    def post(self, claim: Claim) -> None:
        """Wait for its message; there is one claim for each key."""
        assert claim.key not in self._waiting, f"claimed twice: {claim.key}"
        self._waiting[claim.key] = claim

    def take(self, link: Link, incoming: IncomingMessage) -> Claim | None:
        """Whose message this is, if anybody has claimed it."""
        if not self._waiting:
            return None
        return self._waiting.pop((incoming.context, link.peer, incoming.tag), None)

    def give_up(self, claim: Claim) -> Link | None:
        """End a claim; the link that now has something to say, if one has."""
        if self._waiting.get(claim.key) is claim:
            del self._waiting[claim.key]
            return None
        return claim.let_go()

    def fail(self, error: TransportError, peer: str | None = None) -> None:
        """No message of this peer, or of any, will come."""
        for key, claim in list(self._waiting.items()):
            if peer in (None, key[1]) and self._waiting.pop(key, None) is not None:
                claim.failed(error)
