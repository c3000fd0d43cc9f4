"""Shared memory with peers on the same host: found and agreed over sealed links (docs/spec.md 9.5).

    caller                              answerer
    HOST ----- which host this is ---->   the same one? then a channel of its own
    its own channel, attached  <--- CLAIM
    CLAIM ---------------------------->   attached
    JOIN through the memory ---------->

Each message is the body of a SHARE frame, so it comes from the peer and nobody else
has read it. An empty one says: not with me. Whatever fails on this way, or later,
costs nothing but the memory: the link's other paths are there all the time, and
carry what the memory does not.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ..config import Config
from ..link import Link
from ..link.drops import SHARED_MEMORY
from ..link.sender import frames_capacity, local_payload, slot_size
from ..path.shared_memory import Channel, Host, Layout, UnavailableError
from ..wire.codec import MalformedError
from ..wire.packet import FRAMES_OVERHEAD

if TYPE_CHECKING:
    from .engine import Engine

log = logging.getLogger("transport")

_REFUSED: Final = b""
_HOST: Final = b"h"
_CLAIM: Final = b"c"

RECORDS: Final = 8  # of the largest kind, that a ring holds


def layout_for(config: Config) -> Layout:
    """Sizes of a segment that takes every packet of a node of this configuration."""
    largest = frames_capacity(config) + FRAMES_OVERHEAD
    ring = 1 << (RECORDS * largest - 1).bit_length()
    return Layout(ring=ring, slot=slot_size(local_payload(config)), slots=config.shared_slots)


class Neighbours:
    """The channels of one node. Every method is called under the driver's lock."""

    def __init__(self, engine: Engine, config: Config, *, allowed: bool) -> None:
        self._engine = engine
        self._allowed = allowed
        self._limit = config.shared_memory_bytes
        self._layout = layout_for(config)
        self._channels: dict[Link, Channel] = {}
        self._attached: dict[Channel, Link] = {}
        self._lying = False  # some channel may have been told that nobody looks
        self._tried: set[Link] = set()  # links that have made a segment: one each, whatever comes
        self._over: set[Link] = set()  # links without memory from now on: they are answered no more
        self.peek: Callable[[], bool] | None = None
        """Whether a packet waits in any channel; None where there is no channel."""
        self.drops: Counter[str] = Counter()

    # --- what waits ----------------------------------------------------------------------

    def attached(self) -> list[tuple[Channel, Link]]:
        """Every channel in use, with its link."""
        return list(self._attached.items())

    def link_of(self, channel: Channel) -> Link | None:
        """The only link that a channel carries packets of; None where it carries no more."""
        return self._attached.get(channel)

    def lie_down(self) -> bool:
        """Whoever puts a packet into a channel from now on rings; False where one waits."""
        self._lying = True
        return all(channel.lie_down() for channel in self._attached)

    def get_up(self) -> None:
        """Somebody looks at all channels again."""
        if not self._lying:
            return
        self._lying = False
        for channel in self._attached:
            channel.get_up()

    def _choose_peek(self) -> None:
        looks = tuple(channel.peek for channel in self._attached)
        if len(looks) > 1:
            self.peek = lambda: any(look() for look in looks)
        else:
            self.peek = looks[0] if looks else None

    # --- how a channel comes about ---------------------------------------------------------

    def established(self, link: Link) -> None:
        """A link is open: its caller asks whether the peer is on this host."""
        if self._allowed and link.initiator:
            try:
                link.share(_HOST + Host.here().digest)
            except UnavailableError as error:
                self._note(link, error)

    def heard(self, link: Link, body: bytes) -> None:
        """Take what the peer says; whatever it is, at worst there is no channel."""
        if link in self._over:
            return  # else a peer could have answers pile up
        kind, content = body[:1], body[1:]
        try:
            if kind == _HOST and not link.initiator:
                self._answer(link, content)
            elif kind == _CLAIM:
                self._attach(link, content)
            else:
                self._over.add(link)
                self.ended(link)
        except (UnavailableError, MalformedError) as error:
            self._note(link, error)
            self.ended(link)
            self._refuse(link)

    def _refuse(self, link: Link) -> None:
        self._over.add(link)
        link.share(_REFUSED)

    def _answer(self, link: Link, host: bytes) -> None:
        """The caller may be a neighbour: if so, make a segment and say where it is."""
        if self._allowed and Host.here().digest == host:
            link.share(_CLAIM + self._open(link).claim)
        else:
            self._refuse(link)  # which is nothing to count: most peers are elsewhere

    def _attach(self, link: Link, claim: bytes) -> None:
        """The peer has made a segment: map it. The caller makes its own now, and says so."""
        channel = self._channels.get(link)
        if link.initiator == (channel is not None) or not self._allowed:
            raise UnavailableError("the peer speaks out of turn")
        if channel is None:
            channel = self._open(link)
        channel.attach(claim)
        if link.initiator:
            link.share(_CLAIM + channel.claim)
        self._attached[channel] = link
        self._choose_peek()
        self._engine.join(link, channel)

    def _open(self, link: Link) -> Channel:
        if link in self._tried:
            raise UnavailableError("this link has had its segment")
        self._tried.add(link)
        if (len(self._channels) + 1) * self._layout.size > self._limit:
            raise UnavailableError(
                f"Config.shared_memory_bytes ({self._limit}) is reached: "
                f"{len(self._channels)} segments of {self._layout.size} bytes"
            )
        channel = self._channels[link] = Channel(self._layout)
        return channel

    # --- how it ends -----------------------------------------------------------------------

    def failed(self, channel: Channel, reason: str | None = None) -> None:
        """A channel carries nothing any more; its link goes on without.

        The peer hears of it by its bell, unless it has not let go of its own end yet, or a
        process that was forked here keeps the other one. So it is told as well.
        """
        link = self._attached.get(channel)
        if link is not None:
            channel.give_up(reason or "given up")
            log.info("shared memory with %s ended: %s", link.peer, channel.fault)
            self.ended(link)
            self._refuse(link)

    def released(self, link: Link) -> None:
        """The link has ended, and with it whatever there was."""
        self.ended(link)
        self._tried.discard(link)
        self._over.discard(link)

    def ended(self, link: Link) -> None:
        """The channel has ended, or there will be none: let go of the memory."""
        channel = self._channels.pop(link, None)
        if channel is None:
            return
        if self._attached.pop(channel, None) is None:
            channel.close()
            return
        self._choose_peek()
        self._engine.part(link, channel)

    def close(self) -> None:
        """Let go of all memory; the node has ended."""
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()
        self._attached.clear()
        self.peek = None

    def _note(self, link: Link, error: Exception) -> None:
        self.drops[SHARED_MEMORY] += 1
        log.debug("no shared memory with %s: %s", link.peer, error)
