"""A conversation of its own between nodes, for the layers above: collectives.

A channel is one context of a node. Its messages match only receives of that context,
its owner is told of every message that no receive has claimed, and its operations may
be begun from within the callbacks of others, so that one message leads to the next
without a thread.

A channel is a context manager: inside it the calling thread holds the engine. Methods
say where that is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ClosedError, PeerLostError, TransportError
from ..link import Link
from ..tensor.spec import RAW_DTYPE, interned
from ..tensor.views import DestinationView, SourceView
from .claims import Claim, Taken
from .directory import Directory
from .driver import Driver, Waitable
from .engine import Engine
from .messages import Messages, Stray
from .work import Work

if TYPE_CHECKING:
    from .handle import PeerLink
    from .linking import Linking

T = TypeVar("T")


class Channel:
    """One context of one node; made by `Node.channel`."""

    def __init__(
        self,
        engine: Engine,
        directory: Directory,
        messages: Messages,
        linking: Linking,
        context: int,
    ) -> None:
        self._engine = engine
        self._driver: Driver = engine.driver
        self._directory = directory
        self._messages = messages
        self._linking = linking
        self.context = context

    def __enter__(self) -> None:
        self._driver.__enter__()

    def __exit__(self, *exc: object) -> None:
        self._driver.__exit__(*exc)

    # --- links -----------------------------------------------------------------------

    def link_to(self, peer: str) -> object:
        """The link to `peer`, as something to compare, or None. Holds the engine."""
        return self._directory.link_to(peer)

    def key_of(self, peer: str) -> bytes | None:
        """The public key that a linked peer proved to have, or None. Holds the engine."""
        link = self._directory.link_to(peer)
        return None if link is None else self.key_over(link)

    def key_over(self, link: object) -> bytes:
        """The public key proved by whoever was met over a link, also if that has ended since."""
        assert isinstance(link, Link)
        return link.stats().peer_key

    def lost(self, peer: str) -> TransportError | None:
        """Why a link that there was is no more. Holds the engine."""
        return self._directory.lost.get(peer)

    def connect(self, addresses: Sequence[str], peer: str) -> Work[PeerLink]:
        """Begin to link to `peer`; without an address, wait to be called.

        Holds the engine.

        Raises:
            UsageError: an address is not usable, or the trust does not know the peer.
        """
        return self._linking.begin(tuple(addresses), peer)

    def give_up(self, work: Work[PeerLink], peer: str, after: float) -> TransportError:
        """End an attempt to link that took too long; return what the user needs to know.

        Holds the engine.
        """
        refusals = self._linking.refusals()
        return self._linking.give_up(work, peer, after, refusals, calling=True)

    # --- messages --------------------------------------------------------------------

    def send(
        self, data: memoryview | bytes, *, to: str, tag: int, note: bytes = b""
    ) -> Work[None] | None:
        """Begin to send bytes; None where their memory is free already. Holds the engine.

        `note` reaches the peer's channel with the message: see `claim` and `note_of`.

        Raises:
            PeerLostError, ClosedError: there is no link any more.
        """
        view = memoryview(data)
        return self.send_tensor(
            SourceView(interned(RAW_DTYPE, (len(view),)), view, data), to=to, tag=tag, note=note
        )

    def send_tensor(
        self, view: SourceView, *, to: str, tag: int, note: bytes = b""
    ) -> Work[None] | None:
        """Begin to send a tensor; None where its memory is free already. Holds the engine.

        Raises:
            LimitError: larger than `Config.message_limit`.
            PeerLostError, ClosedError: there is no link any more.
        """
        link = self._directory.link_to(to)
        if link is None:
            raise PeerLostError(f"peer {to!r} is not linked: {self._directory.lost.get(to)}")
        message = self._messages.post(link, view, context=self.context, tag=tag, note=note)
        if message is None:
            return None
        return self._messages.follow(link, message, view, tag)

    def receive(
        self, destination: DestinationView | memoryview | None, *, source: str | None, tag: int
    ) -> Work[Any]:
        """Begin to receive, into flat bytes, a tensor, or a new array. Holds the engine.

        Raises:
            PeerLostError: the source is gone, and nothing of it waits.
        """
        if isinstance(destination, memoryview):
            spec = interned(RAW_DTYPE, (len(destination),))
            destination = DestinationView(spec, destination, True, destination)
        work = self._messages.receive(destination, source=source, context=self.context, tag=tag)
        lost = self._directory.lost.get(source) if source is not None else None
        if lost is not None and not work.done():
            work.cancel()
            raise PeerLostError(f"{work.what} failed: {lost}")
        return work

    def claim(
        self,
        size: int,
        taken: Taken,
        failed: Callable[[TransportError], None],
        *,
        source: str,
        tag: int,
    ) -> Claim:
        """Expect one message of `size` bytes; `taken` may be called at once. Holds the engine.

        There is one claim for each source and tag. See `Claim`.

        Raises:
            PeerLostError: the source is gone, and nothing of it waits.
        """
        claim = Claim((self.context, source, tag), size, taken, failed)
        lost = self._directory.lost.get(source)
        if lost is not None and not self._messages.has(*claim.key):
            raise PeerLostError(f"peer {source!r} is gone: {lost}")
        self._messages.claim(claim)
        return claim

    def unclaim(self, claim: Claim) -> None:
        """End a claim that was not taken. Holds the engine."""
        self._messages.unclaim(claim)

    def holds(self, source: str, tag: int, link: object) -> bool:
        """Whether the next message of this source and tag is here, over this link.

        Holds the engine.
        """
        message = self._messages.probe(source=source, context=self.context, tag=tag)
        return message is not None and message.link is link

    def note_of(self, source: str, tag: int) -> bytes:
        """The note of the oldest message of this kind that nobody claims. Holds the engine."""
        return self._messages.note_of(source, self.context, tag)

    def discard(self, source: str | None = None, link: object = None) -> None:
        """Drop the messages that no receive has claimed: of one peer, over one link, or all.

        Holds the engine.
        """
        self._messages.discard(self.context, source, link)

    def watch(self, on_stray: Stray) -> None:
        """Call `on_stray(source, tag, link)` for each message that no receive has claimed.

        Also, at once, for those that wait already. Holds the engine, then and later.

        Raises:
            UsageError: the context is another channel's.
        """
        self._messages.watch(self.context, on_stray)

    # --- progress --------------------------------------------------------------------

    def work(self, operation: object) -> Work[Any]:
        """A handle for an operation made of several messages; the caller ends it."""
        return Work(self._driver, operation)

    def pump(self) -> None:
        """Send at once what can be sent. Holds the engine."""
        self._engine.pump()

    def later(self, delay: float, action: Callable[[], None]) -> None:
        """Run `action` after `delay` seconds, holding the engine."""
        self._engine.call_later(delay, action)

    def wait(self, what: Waitable, timeout: float) -> bool:
        """Drive the engine until `what` has ended; False where time is up.

        Raises:
            ClosedError: the node was closed meanwhile.
        """
        ended = self._driver.wait(what, monotonic() + timeout)
        if not ended and self._driver.stopping:
            raise ClosedError("the node was closed")
        return ended
