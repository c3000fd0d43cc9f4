"""Who may link, and which of a node's links is *the* link to a peer (docs/spec.md 4.6).

The directory admits callers, limits half-open handshakes, recognises replayed
first messages, and decides when both sides call at once: the node whose name
sorts first keeps its own call, unless that call has not even connected.
"""

from __future__ import annotations

import logging
import random
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import cast

from ..config import Config
from ..crypto.seal import KeyLimits
from ..errors import LimitError, PeerLostError, TransportError
from ..link import CreditPool, Link, State
from ..link.drops import (
    EVIDENCE,
    HALF_OPEN,
    LIMIT,
    REPLAYED_HELLO,
    STATE,
    UNKNOWN_LINK,
    WRONG_KEY,
    Drop,
)
from ..link.handshake import Hello, RefusedError, Terms, open_hello
from ..path.base import Path
from ..wire.packet import HANDSHAKE_HEADER

log = logging.getLogger("transport")


class Directory:
    """All links of one node, from the first packet of each to its end."""

    def __init__(self, terms: Terms, config: Config, limits: KeyLimits | None = None) -> None:
        self._retire: Callable[[Link, TransportError], None] = Link.abort
        self._terms = terms
        self._config = config
        self._limits = limits
        self.credit = CreditPool(config)
        """What this node grants to the senders of all its links."""
        self._random = random.SystemRandom()
        self._closing = False
        self._by_index: dict[int, Link] = {}
        self._answering: dict[int, Link] = {}  # half-open, oldest first
        self._dialling: dict[str, Link] = {}
        self._open: dict[str, Link] = {}
        self._ephemerals: OrderedDict[bytes, None] = OrderedDict()
        self.drops: Counter[str] = Counter()
        self.lost: OrderedDict[str, TransportError] = OrderedDict()
        """Peers that were linked and are not any more, with the reason; at most `Config.links`."""
        self.delivered_to: set[str] = set()
        """Those of `lost` to whom nothing was left undelivered."""
        self._refused: OrderedDict[str, TransportError] = OrderedDict()

    def on_retire(self, retire: Callable[[Link, TransportError], None]) -> None:
        """What ends a link that must give way."""
        self._retire = retire

    def by_index(self, index: int) -> Link | None:
        """The link that a packet with this receiver index is for; counted where there is none."""
        link = self._by_index.get(index)
        if link is None:
            self.drops[UNKNOWN_LINK] += 1
        return link

    def link_to(self, peer: str) -> Link | None:
        """The open link to `peer`."""
        return self._open.get(peer)

    def call_to(self, peer: str) -> Link | None:
        """Our own unanswered call to `peer`."""
        return self._dialling.get(peer)

    def is_confirming(self, peer: str) -> bool:
        """Whether a call of this peer is answered, so that to it there is a link already."""
        return any(
            link.peer == peer and link.state is State.CONFIRMING
            for link in self._answering.values()
        )

    def peers(self) -> tuple[str, ...]:
        """Names of all linked peers."""
        return tuple(self._open)

    def __iter__(self) -> Iterator[Link]:
        return iter(list(self._by_index.values()))

    def _new_link(self, peer: str, now: float, hello: Hello | None) -> Link:
        index = 0
        while index == 0 or index in self._by_index:
            index = self._random.getrandbits(32)
        link = Link(
            self._terms,
            self._config,
            peer=peer,
            index=index,
            now=now,
            hello=hello,
            limits=self._limits,
            credit=self.credit,
        )
        self._by_index[index] = link
        return link

    def call(self, peer: str, now: float) -> Link:
        """A new link of ours to `peer`; give it paths and `begin` it.

        Raises:
            LimitError: `Config.links` is reached.
        """
        if len(self._open) + len(self._dialling) >= self._config.links:
            raise LimitError(f"{len(self._open)} links are open, Config.links is the limit")
        link = self._dialling[peer] = self._new_link(peer, now, None)
        return link

    def answer(self, path: Path, packet: memoryview, now: float) -> Link | None:
        """Admit or drop a caller's first packet; return the link that answers it."""
        try:
            hello = self._admit(packet)
        except Drop as drop:
            self.drops[drop.cause] += 1
            return None
        link = self._new_link(hello.caller, now, hello)
        self._answering[link.index] = link
        link.add_path(path, path.address, now)
        return link

    def refuse_callers(self) -> None:
        """The node is closing: a new caller would only keep it from its end."""
        self._closing = True

    def _admit(self, packet: memoryview) -> Hello:
        if self._closing:
            raise Drop(STATE)
        hello = open_hello(packet, self._terms)
        self._remember(packet)
        peer = hello.caller
        call = self._dialling.get(peer)
        if call is not None:
            reached = any(cast(Path, path.handle).connected for path in call.paths)
            if self._terms.name < peer and reached:
                raise Drop(STATE)  # the peer will answer our call instead
        if peer not in self._open and len(self._open) >= self._config.links:
            raise Drop(LIMIT)
        self._make_room()
        return hello

    def _make_room(self) -> None:
        """Let the oldest unfinished handshake of the name that has most of them give way.

        A caller that begins anew has given up what it began before: that goes first, and
        not somebody's who is about to be linked, or by its own reckoning is.
        """
        if len(self._answering) < self._config.half_open_links:
            return
        self.drops[HALF_OPEN] += 1
        held = Counter(link.peer for link in self._answering.values())
        most = max(held.values())
        oldest = next(link for link in self._answering.values() if held[link.peer] == most)
        error = PeerLostError("gave way to a newer caller")
        self.ended(oldest, error)
        self._retire(oldest, error)

    def _remember(self, packet: memoryview) -> None:
        """Refuse a first message that was seen before, by its ephemeral key."""
        start = HANDSHAKE_HEADER.size + HANDSHAKE_HEADER.unpack_from(packet)[2]
        ephemeral = bytes(packet[start : start + 32])
        if ephemeral in self._ephemerals:
            raise Drop(REPLAYED_HELLO)
        self._ephemerals[ephemeral] = None
        if len(self._ephemerals) > self._config.handshakes_remembered:
            self._ephemerals.popitem(last=False)

    def established(self, link: Link) -> None:
        """`link` is open: it becomes the link to its peer, and others retire."""
        peer = link.peer
        self._answering.pop(link.index, None)
        if self._dialling.get(peer) is link:
            del self._dialling[peer]
        previous = self._open.get(peer)
        self._open[peer] = link
        self.lost.pop(peer, None)
        self.delivered_to.discard(peer)
        if previous is not None and previous is not link:
            self._retire(previous, PeerLostError(f"peer {peer!r} came back as a new process"))
        call = self._dialling.pop(peer, None)
        if call is not None:
            self._retire(call, PeerLostError(f"peer {peer!r} called first"))
        if link.initiator and self._terms.name < peer:
            crossing = [other for other in self._answering.values() if other.peer == peer]
            for other in crossing:
                self._retire(other, PeerLostError(f"our call to {peer!r} came first"))

    def committed(self, link: Link) -> None:
        """A caller has our evidence, so to it `link` is open: a call of ours gives way.

        Of two calls that cross, the peer whose name sorts first lets one come through,
        whichever gets this far first; the other peer goes by what it finds open. Were
        both to come through, messages on the one given up later would be lost.
        """
        call = self._dialling.get(link.peer)
        # The other name's call may give way only while nobody can have answered it.
        if call is not None and (self._terms.name < link.peer or call.state is State.HANDSHAKING):
            del self._dialling[link.peer]
            self._retire(call, PeerLostError(f"peer {link.peer!r} called first"))

    def ended(self, link: Link, error: TransportError) -> None:
        """`link` is closed: forget it."""
        self._by_index.pop(link.index, None)
        self._answering.pop(link.index, None)
        if self._dialling.get(link.peer) is link:
            del self._dialling[link.peer]
        if self._open.get(link.peer) is link:
            del self._open[link.peer]
            self._note(self.lost, link.peer, error)

    def note_delivery(self, peer: str, everything: bool) -> None:
        """The link to `peer` has ended with everything delivered, or not."""
        if everything and peer in self.lost:
            self.delivered_to &= self.lost.keys()
            self.delivered_to.add(peer)

    def tell_of_undelivered(self) -> None:
        """Warn of links that end before everything sent over them was delivered."""
        for link in self._open.values():
            if link.settled_through < link.last_message:
                log.warning("closing before %r had taken all that was sent to it", link.peer)

    def refused(self, peer: str, error: TransportError) -> None:
        """A caller knew the secret but was not who it said: remember why, for `wait_for`."""
        if isinstance(error, RefusedError):
            self.drops[EVIDENCE if error.evidence else WRONG_KEY] += 1
        self._note(self._refused, peer, error)

    def refusal_of(self, peer: str) -> TransportError | None:
        """Why a caller of this name was refused last, once."""
        return self._refused.pop(peer, None)

    def _note(
        self, notes: OrderedDict[str, TransportError], peer: str, error: TransportError
    ) -> None:
        notes[peer] = error
        if len(notes) > self._config.links:
            notes.popitem(last=False)


class AllClosed:
    """Ends when no link is left in a directory."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def done(self) -> bool:
        """Whether every link has ended."""
        return not any(True for _ in self._directory)
