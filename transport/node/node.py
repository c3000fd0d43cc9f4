"""`Node`: the endpoint that programs use to exchange tensors."""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import index
from time import monotonic, time
from types import TracebackType
from typing import Any, Final

from ..config import Config
from ..crypto.seal import KeyLimits, forks
from ..errors import (
    AuthenticationError,
    ClosedError,
    PeerLostError,
    UsageError,
)
from ..identity.keys import Identity
from ..identity.trust import Trust, check_name
from ..link import Established, Event, Failed, Link, State
from ..link.handshake import Terms
from ..link.sender import local_payload, packet_limit, slot_size
from ..path.base import PathFilter
from ..tensor.views import DestinationView, destination_view, source_view
from .channel import Channel
from .directory import AllClosed, Directory
from .engine import Engine
from .handle import PeerLink
from .linking import Linking
from .messages import NOTHING, Message, Messages
from .work import Work

log = logging.getLogger("transport")

MAX_TAG: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStats:
    """One node. `drops` counts packets and messages that no link took, by cause."""

    name: str
    links: tuple[str, ...]
    unclaimed_messages: int
    drops: Mapping[str, int]
    evidence_refused: Mapping[str, int]  # by reason; empty where no policy asks


class Node:
    """A named endpoint with sealed links to its peers.

    Use it as a context manager, or call `close`. Every method may be called
    from any thread. A node belongs to the process that made it: after `fork` it
    raises in the child, because two processes would seal under one counter.

    Raises:
        UsageError: a name, address or other argument is not usable.
    """

    def __init__(
        self,
        name: str,
        *,
        identity: Identity,
        trust: Trust,
        listen: Sequence[str] = ("tcp://127.0.0.1:0",),
        config: Config | None = None,
        path_filter: PathFilter | None = None,
        key_limits: KeyLimits | None = None,
    ) -> None:
        if not isinstance(identity, Identity):
            raise UsageError(f"identity must be an Identity, got {type(identity).__name__}")
        if not isinstance(trust, Trust):
            raise UsageError(f"trust must be a Trust, got {type(trust).__name__}")
        if isinstance(listen, str):
            raise UsageError(f"listen takes a sequence of addresses, got the string {listen!r}")
        self.name = check_name(name)
        self._config = config or Config()
        self._pid = os.getpid()
        self._forks = forks()
        limit = packet_limit(self._config)
        if self._config.shared_memory:  # what is lost there is repeated over the network
            limit = max(limit, slot_size(local_payload(self._config)))
        self._evidence = trust.evidence(time)
        terms = Terms(
            name=name,
            identity=identity,
            trust=trust,
            evidence=self._evidence,
            packet_limit=limit,
            credit=self._config.unexpected_bytes,
        )
        self._directory = Directory(terms, self._config, key_limits)
        self._messages = Messages(self._config)
        self._engine = Engine(
            name,
            self._config,
            self._directory,
            limit,
            self._on_event,
            self._messages.arrived,
            path_filter,
        )
        self._driver = self._engine.driver
        self._messages.engine = self._engine
        self._linking = Linking(self._engine, self._directory, trust, self._config, self._handle_of)
        self._flushing: dict[Link, list[tuple[int, Work[None]]]] = {}
        self._handles: dict[Link, PeerLink] = {}
        self._established: dict[Link, None] = {}
        self._closing = False
        self._closed = threading.Event()
        try:
            self.addresses: tuple[str, ...] = tuple(map(self._engine.listen, listen))
        except BaseException:
            self._driver.stop()
            self._engine.close()
            raise
        self._driver.start()

    def __repr__(self) -> str:
        return f"<Node {self.name!r} on {', '.join(self.addresses) or 'no address'}>"

    def __enter__(self) -> Node:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _check_usable(self) -> None:
        if forks() != self._forks:
            raise UsageError(
                f"node {self.name!r} belongs to process {self._pid}; create a new Node after fork()"
            )
        if self._closing:
            raise ClosedError(f"node {self.name!r} is closed")

    # --- links -----------------------------------------------------------------------

    def connect(
        self, addresses: str | Sequence[str], *, peer: str, timeout: float = 30.0
    ) -> PeerLink:
        """Link to `peer` at one address, or at several: one a rail.

        Returns the link that exists already, if one does.

        Raises:
            AuthenticationError: the peer is not who it should be, or refused us.
            HandshakeError: no link came about in time.
            UsageError: an address or name is not usable.
        """
        self._check_usable()
        rails = (addresses,) if isinstance(addresses, str) else tuple(addresses)
        if not rails:
            raise UsageError("connect needs at least one address")
        if check_name(peer) == self.name:
            raise UsageError(f"node {self.name!r} cannot link to itself")
        return self._linking.connect(rails, peer, timeout)

    def wait_for(self, peer: str, timeout: float = 30.0) -> PeerLink:
        """Wait until `peer` has linked to this node.

        Raises:
            TransportTimeoutError: nobody called in time.
            HandshakeError: callers came in that time, and none was admitted.
        """
        self._check_usable()
        return self._linking.wait_for(peer, timeout)

    def link(self, peer: str) -> PeerLink:
        """The link to `peer`.

        Raises:
            UsageError: there has been none.
            PeerLostError: there was one.
        """
        self._check_usable()
        with self._driver:
            return self._handle_of(self._link_to(peer))

    def _link_to(self, peer: str) -> Link:
        link = self._directory.link_to(peer)
        if link is not None:
            return link
        lost = self._directory.lost.get(peer)
        if lost is not None:
            raise PeerLostError(f"peer {peer!r} is not linked any more: {lost}")
        if peer == self.name:
            raise UsageError(f"node {self.name!r} has no link to itself")
        raise UsageError(f"no link to {peer!r}: call connect() or wait_for() first")

    def _handle_of(self, link: Link) -> PeerLink:
        handle = self._handles.get(link)
        if handle is None:
            handle = self._handles[link] = PeerLink(link, self._driver)
        return handle

    # --- messages --------------------------------------------------------------------

    def send(self, tensor: object, *, to: str, tag: int = 0, timeout: float | None = None) -> None:
        """Send `tensor` to a peer; returns when its memory may be reused.

        That is not yet delivery: see `flush`. `timeout` is in seconds.

        Raises:
            UsageError: no link to that peer, or not a tensor this library can send.
            LimitError: larger than `Config.message_limit`.
            PeerLostError: the peer is gone.
            TransportTimeoutError: not taken in time; the message is withdrawn.
        """
        work = self._post(tensor, to, tag, 0, blocking=True)
        if work is not None:
            work.complete(timeout)

    def isend(self, tensor: object, *, to: str, tag: int = 0, context: int = 0) -> Work[None]:
        """Begin to send; the returned work ends when the tensor's memory may be reused.

        `context` keeps independent conversations apart: a receive matches only
        messages of its own context.

        Raises: as `send`, for what is known at once.
        """
        work = self._post(tensor, to, tag, context, blocking=False)
        assert work is not None
        return work

    def _post(
        self, tensor: object, to: str, tag: int, context: int, *, blocking: bool
    ) -> Work[None] | None:
        """Begin to send; None where a blocking call need not wait."""
        if self._closing or forks() != self._forks:
            self._check_usable()
        if type(tag) is not int or not 0 <= tag <= MAX_TAG:
            tag = _checked_tag(tag)
        view = source_view(tensor)
        work = None
        with self._driver:
            link = self._directory.link_to(to) or self._link_to(to)
            message = self._messages.post(link, view, context=context, tag=tag)
            if message is not None or not blocking:
                work = self._messages.follow(link, message, view, tag)
            self._engine.pump()
        return work

    def recv(
        self,
        out: object = None,
        *,
        source: str | None = None,
        tag: int | None = 0,
        timeout: float | None = None,
    ) -> Any:
        """Receive a tensor into `out`, or into a new numpy array, and return it.

        `source` None takes a message of any peer, `tag` None of any tag; of one
        peer's messages that match, the one sent first comes first.

        Raises:
            UsageError: `out` has another dtype or shape; the message stays queued.
            TruncatedError: `out` is too small; the message stays queued.
            PeerLostError: the peer is gone.
            TransportTimeoutError: nothing came in time, or not all of it.
        """
        destination, tag = self._checked(out, tag)
        with self._driver:
            if source is not None and tag is not None:
                received = self._messages.take_now(destination, source, tag)
                if received is not NOTHING:
                    self._engine.pump()
                    return received
            work = self._receive(destination, source, tag, 0)
        return work.complete(timeout)

    def irecv(
        self,
        out: object = None,
        *,
        source: str | None = None,
        tag: int | None = 0,
        context: int = 0,
    ) -> Work[Any]:
        """Begin to receive; the returned work's result is `out` or the new array.

        Raises: as `recv`, for what is known at once.
        """
        destination, tag = self._checked(out, tag)
        with self._driver:
            return self._receive(destination, source, tag, context)

    def _checked(self, out: object, tag: int | None) -> tuple[DestinationView | None, int | None]:
        """The arguments of a receive, where they can be."""
        if self._closing or forks() != self._forks:
            self._check_usable()
        if tag is not None and (type(tag) is not int or not 0 <= tag <= MAX_TAG):
            tag = _checked_tag(tag)
        return None if out is None else destination_view(out), tag

    def _receive(
        self, destination: DestinationView | None, source: str | None, tag: int | None, context: int
    ) -> Work[Any]:
        """Called under the lock."""
        if source == self.name:
            raise UsageError(f"node {self.name!r} has no link to itself")
        work = self._messages.receive(destination, source=source, context=context, tag=tag)
        lost = self._directory.lost.get(source) if source is not None else None
        if lost is not None and not work.done():
            # What it had delivered before may still be taken; nothing more will come.
            work.cancel()
            raise PeerLostError(f"{work.what} failed: {lost}")
        self._engine.pump()
        return work

    def probe(self, *, source: str | None = None, tag: int | None = 0) -> Message | None:
        """The message that a `recv` would take now, or None: see its source, tag and spec."""
        self._check_usable()
        with self._driver:
            self._engine.pump()
            return self._messages.probe(source=source, context=0, tag=tag)

    def flush(self, to: str | None = None, timeout: float | None = None) -> None:
        """Wait until everything sent so far to `to`, or to all peers, is delivered.

        Delivered means: authenticated and in the receiver's memory, and acknowledged.

        Raises:
            PeerLostError: a peer is gone, with messages undelivered.
            TransportTimeoutError: not in time; delivery goes on.
        """
        self._check_usable()
        deadline = None if timeout is None else monotonic() + timeout
        for work in self._begin_flush(to):
            work.wait(None if deadline is None else max(0.0, deadline - monotonic()))

    def _begin_flush(self, to: str | None) -> list[Work[None]]:
        with self._driver:
            names = self._directory.peers() if to is None else (to,)
            works = []
            for name in names:
                if name in self._directory.delivered_to:
                    continue  # the peer is gone, but it had everything
                link = self._link_to(name)
                work: Work[None] = Work(self._driver, f"flush to {link.peer!r}")
                self._flushing.setdefault(link, []).append((link.last_message, work))
                works.append(work)
            self._settle_flushes()
        return works

    def _settle_flushes(self, link: Link | None = None) -> None:
        for flushed in list(self._flushing) if link is None else (link,):
            waiting = self._flushing.get(flushed)
            if not waiting:
                continue
            through = flushed.settled_through
            for last, work in waiting:
                if last <= through:
                    work.finish(None)
            left = [entry for entry in waiting if not entry[1].done()]
            if left:
                self._flushing[flushed] = left
            else:
                del self._flushing[flushed]

    def channel(self, context: int) -> Channel:
        """A conversation of its own, for collectives; see `transport.node.channel`."""
        self._check_usable()
        return Channel(self._engine, self._directory, self._messages, self._linking, context)

    # --- what links report -----------------------------------------------------------

    def _on_event(self, link: Link, event: Event | None) -> None:
        """Called by the engine under the lock; None after each service of a link."""
        if event is None:
            if self._flushing:
                self._settle_flushes(link)
        elif isinstance(event, Established):
            self._established[link] = None
            self._linking.established(link)
            if self._closing:
                link.close()
        elif isinstance(event, Failed):
            self._on_failure(link, event)
        else:
            self._messages.on_event(link, event)

    def _on_failure(self, link: Link, failed: Failed) -> None:
        peer, error = link.peer, failed.error
        self._messages.on_event(link, failed)
        for last, work in self._flushing.pop(link, ()):
            if last <= failed.settled_through:
                work.finish(None)
            else:
                work.fail(PeerLostError(f"{work.what} failed: {error}"))
        self._handles.pop(link, None)
        if link in self._established:
            del self._established[link]
            self._messages.peer_lost(peer, error)
            self._directory.note_delivery(peer, failed.settled_through >= link.last_message)
            if not isinstance(error, ClosedError):
                log.info("node %s: link to %s ended: %s", self.name, peer, error)
        elif link.initiator:
            self._linking.call_failed(link, error)
        elif isinstance(error, AuthenticationError):
            log.warning("node %s: refused a caller: %s", self.name, error)
            self._directory.refused(peer, error)

    # --- the end ---------------------------------------------------------------------

    def stats(self) -> NodeStats:
        """Counters of the node itself; those of each link are in `link(peer).stats()`."""
        with self._driver:
            drops = Counter(self._engine.drops)
            drops.update(self._directory.drops)
            drops.update(self._messages.drops)
            drops.update(self._engine.neighbours.drops)
            return NodeStats(
                name=self.name,
                links=self._directory.peers(),
                unclaimed_messages=self._messages.unclaimed,
                drops=dict(drops),
                evidence_refused=dict(self._evidence.refused),
            )

    def close(self, timeout: float = 5.0) -> None:
        """Deliver what was sent, within `timeout` seconds, then end every link.

        Every operation still under way ends with `ClosedError`. Closing twice is
        allowed; closing in a forked child does nothing.

        Raises:
            UsageError: called in a done-callback, which everything that has to end waits for.
        """
        if forks() != self._forks:
            return
        if self._engine.in_callback():
            raise UsageError(f"node {self.name!r} cannot be closed in a done-callback")
        error = ClosedError(f"node {self.name!r} was closed")
        with self._driver:
            first, self._closing = not self._closing, True
            if first:
                self._directory.refuse_callers()
                self._messages.fail_all(error)
                self._linking.fail_all(error)
                for link in self._directory:
                    if not self._open_to_its_caller(link):
                        link.close()
                        self._engine.touch(link)
                self._engine.pump()
        if not first:
            self._closed.wait(timeout)
            return
        # A link that is open to its caller alone is closed, with a goodbye, once it is confirmed.
        self._driver.wait(AllClosed(self._directory), monotonic() + timeout)
        with self._driver:
            self._directory.tell_of_undelivered()
            for link in self._directory:
                link.abort(error)
                self._engine.touch(link)
            self._engine.pump()
        self._driver.stop()
        self._engine.close()
        self._closed.set()

    def _open_to_its_caller(self, link: Link) -> bool:
        """Whether the peer has a link that this node cannot say anything over yet.

        One that is never confirmed is left of calls that crossed or were repeated: there
        another link to the peer is open, or was.
        """
        directory = self._directory
        known = directory.link_to(link.peer) is not None or link.peer in directory.lost
        return link.state is State.CONFIRMING and not known


def _checked_tag(tag: object) -> int:
    """`tag` as an int: numpy's integers serve as well.

    Raises:
        UsageError: not a whole number, or out of range.
    """
    try:
        number = index(tag)  # type: ignore[arg-type]  # asking is the only test
    except TypeError:
        number = -1
    if not 0 <= number <= MAX_TAG:
        raise UsageError(f"tag must be a whole number in 0..2^64-1, got {tag!r}")
    return number
