"""Tensor messages of a node: sends, receives, matching, and how each of them ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple, cast

from ..config import Config
from ..errors import (
    ClosedError,
    KeyExhaustedError,
    LimitError,
    PeerLostError,
    PeerRefusedError,
    TransportError,
    TruncatedError,
    UsageError,
)
from ..link import Failed, Link, MessageDeclined, MessagePlaced, MessageSealed
from ..link.drops import DISCARDED, LIMIT, MALFORMED
from ..link.events import Event, MessageWithdrawn
from ..link.inbox import IncomingMessage
from ..link.outbox import OutgoingMessage
from ..tensor.spec import MalformedSpecError, TensorSpec
from ..tensor.views import DestinationView, SourceView, check_fits, new_array
from .claims import Claim, Claims
from .engine import Engine
from .matching import Matcher
from .work import Work

NOTHING: Final = object()

Stray = Callable[[str, int, Link], None]
"""Hears of a message that no receive has claimed: its source, its tag, and its link."""


class Receive:
    """A posted receive: what it wants, where it goes, and its handle."""

    __slots__ = (
        "array",
        "context",
        "destination",
        "message",
        "serial",
        "source",
        "tag",
        "work",
    )

    def __init__(
        self,
        work: Work[Any],
        destination: DestinationView | None,
        source: str | None,
        context: int,
        tag: int | None,
    ) -> None:
        self.work = work
        self.destination = destination
        self.source = source
        self.context = context
        self.tag = tag
        self.serial = 0
        self.message: Message | None = None  # being placed
        self.array: object = None


class Message:
    """An arrived message: what it is, from whom, and the link's own handle of it."""

    __slots__ = ("context", "incoming", "link", "serial", "source", "spec", "tag")

    def __init__(self, link: Link, incoming: IncomingMessage, spec: TensorSpec) -> None:
        self.link = link
        self.incoming = incoming
        self.spec = spec
        self.source = link.peer
        self.context = incoming.context
        self.tag = incoming.tag
        self.serial = 0


class Messages:
    """All messages of one node. Every method is called under the driver's lock."""

    engine: Engine
    """Set once, before anything else: each of the two needs the other."""

    def __init__(self, config: Config) -> None:
        self._message_limit = config.message_limit
        self._matcher: Matcher[Message, Receive] = Matcher()
        self._watchers: dict[int, Stray] = {}  # by context
        self._claims = Claims()
        self.drops: Counter[str] = Counter()

    # --- sending ---------------------------------------------------------------------

    def post(
        self, link: Link, view: SourceView, *, context: int, tag: int, note: bytes = b""
    ) -> OutgoingMessage | None:
        """Queue a message; None where the buffer is free already.

        `note` is what the owner of the context says of it, behind its description.

        Raises:
            LimitError: larger than `Config.message_limit`.
            ClosedError: the link is not open.
        """
        spec = view.spec
        if spec.nbytes > self._message_limit:
            raise LimitError(
                f"message of {spec.nbytes} bytes exceeds Config.message_limit of "
                f"{self._message_limit}"
            )
        data, description = view.data, spec.encode() + note
        if self.engine.express(link, data, description, context, tag):
            return None
        message = link.send(data, description, context=context, tag=tag)
        if link.wants_service:
            self.engine.touch(link)
        else:  # for company, which is what keeps it cheap; or for credit
            self.engine.waits(link)
        return message

    def follow(
        self, link: Link, message: OutgoingMessage | None, view: SourceView, tag: int
    ) -> Work[None]:
        """The handle of a message that was posted; it ends when the buffer may be reused."""
        operation = Operation("send", "to", link.peer, tag, view.spec.nbytes)
        work: Work[None] = Work(self.engine.driver, operation)
        if message is None:
            work.finish(None)
            return work
        message.owner = (work, view)  # the view keeps the caller's memory alive
        work.on_cancel(partial(self._withdraw, link, message, started=False))
        work.on_give_up(partial(self._withdraw, link, message, started=True))
        return work

    def _withdraw(self, link: Link, message: OutgoingMessage, *, started: bool) -> bool:
        """Take a message back; one whose bytes flow already only where `started` allows it."""
        if message.offset and not started:
            return False
        withdrawn = link.withdraw(message)
        self.engine.touch(link)
        return withdrawn

    # --- claims ----------------------------------------------------------------------

    def claim(self, claim: Claim) -> None:
        """Wait for one message; it is taken at once where it has come already."""
        message = self._matcher.take_exact(*claim.key)
        if message is None:
            self._claims.post(claim)
            return
        claim.hand_over(message.link, message.incoming)
        self.engine.touch(message.link)

    def has(self, context: int, source: str, tag: int) -> bool:
        """Whether an unclaimed message of this kind waits."""
        return self._matcher.peek(context, source, tag) is not None

    def unclaim(self, claim: Claim) -> None:
        """End a claim, wherever it stands; nothing is handed over any more."""
        link = self._claims.give_up(claim)
        if link is not None:
            self.engine.touch(link)

    def note_of(self, source: str, context: int, tag: int) -> bytes:
        """What the oldest unclaimed message of this kind has behind its description."""
        message = self._matcher.peek(context, source, tag)
        if message is None:
            return b""
        return message.incoming.description[len(message.spec.encode()) :]

    # --- receiving -------------------------------------------------------------------

    def receive(
        self,
        destination: DestinationView | None,
        *,
        source: str | None,
        context: int,
        tag: int | None,
    ) -> Work[Any]:
        """Post a receive; it is matched at once where a message waits."""
        operation = Operation("recv", "from", source, tag, None)
        receive = Receive(Work(self.engine.driver, operation), destination, source, context, tag)
        if not self._take_waiting(receive):
            self._matcher.post(receive)
            self._let_go_by(receive)
        return receive.work

    def take_now(self, destination: DestinationView | None, source: str, tag: int) -> Any:
        """What a small message of context 0 that waits is received into, without a handle.

        `NOTHING` where none waits, and where `receive` has more to do or to say than to copy.
        """
        message = self._matcher.peek(0, source, tag)
        if message is None or message.incoming.payload is None:
            return NOTHING
        if destination is not None and destination.copy_back is not None:
            return NOTHING
        try:
            array, memory = _memory_for(destination, message.spec)
        except (UsageError, TruncatedError, LimitError):
            return NOTHING
        self._matcher.take_exact(0, source, tag)
        self._copy(message.link, message.incoming, memory)
        return array

    def _copy(self, link: Link, incoming: IncomingMessage, memory: memoryview) -> None:
        """A small message's bytes; its credit is free again."""
        payload = incoming.payload
        if payload:
            memory[:] = payload
        if link.release(incoming):
            self.engine.touch(link)

    def _take_waiting(self, receive: Receive) -> bool:
        """Give a waiting message to `receive`; False where none matches."""
        message = self._matcher.message_for(receive)
        if message is None:
            return False
        if not self._deliver(message.link, message.incoming, message.spec, receive):
            self._matcher.put_back(message)
        return True

    def _let_go_by(self, receive: Receive) -> None:
        """Say how a posted receive is cancelled and given up."""
        receive.work.on_cancel(partial(self._matcher.remove_posted, receive))
        receive.work.on_give_up(partial(self._abandon, receive))

    def _abandon(self, receive: Receive) -> bool:
        """Nothing may write to the buffer of this receive any more."""
        if receive.message is None:
            return self._matcher.remove_posted(receive)
        receive.message.link.decline(receive.message.incoming)
        self.engine.touch(receive.message.link)
        receive.message = None
        return True

    def probe(self, *, source: str | None, context: int, tag: int | None) -> Message | None:
        """The message that such a receive would take, if one waits."""
        return self._matcher.peek(context, source, tag)

    def arrived(self, link: Link, incoming: IncomingMessage) -> None:
        claim = self._claims.take(link, incoming)
        if claim is not None:
            claim.hand_over(link, incoming)
            self.engine.touch(link)
            return
        try:
            if incoming.context:  # what follows the spec there is its owner's business
                spec, _ = TensorSpec.decode(incoming.description)
            else:
                spec = TensorSpec.parse(incoming.description)
        except MalformedSpecError:
            self._reject(link, incoming, MALFORMED)
            return
        if spec.nbytes != incoming.size:
            self._reject(link, incoming, MALFORMED)
            return
        if incoming.size > self._message_limit:
            self._reject(link, incoming, LIMIT)
            return
        while True:
            receive = self._matcher.receive_of(incoming.context, link.peer, incoming.tag)
            if receive is None:
                break
            if self._deliver(link, incoming, spec, receive):
                return
        message = Message(link, incoming, spec)
        if incoming.payload is not None:
            # Waiting, it must not keep the memory of the whole packet it came in.
            incoming.payload = bytes(incoming.payload)
        self._matcher.keep(message)
        incoming.owner = message
        watcher = self._watchers.get(message.context)
        if watcher is not None:
            watcher(message.source, message.tag, message.link)

    def watch(self, context: int, on_stray: Stray) -> None:
        """Call `on_stray(source, tag, link)` for each unclaimed message of a context, old and new.

        Raises:
            UsageError: somebody does already.
        """
        if context in self._watchers:
            raise UsageError(f"context {context} is in use")
        self._watchers[context] = on_stray
        for message in self._matcher.waiting(context):
            on_stray(message.source, message.tag, message.link)

    def discard(self, context: int, source: str | None, link: object = None) -> None:
        """Take none of the unclaimed messages of a context: of one peer, over one link, or all."""
        for message in self._matcher.waiting(context):
            if source not in (None, message.source) or link not in (None, message.link):
                continue
            self._matcher.remove_unexpected(message)
            self._reject(message.link, message.incoming, DISCARDED)

    def _reject(self, link: Link, incoming: IncomingMessage, cause: str) -> None:
        """Take nothing of a message: no tensor, too large, or nobody wants it any more."""
        self.drops[cause] += 1
        if incoming.payload is not None:
            link.release(incoming)
        else:
            link.decline(incoming)
        self.engine.touch(link)

    def _deliver(
        self, link: Link, incoming: IncomingMessage, spec: TensorSpec, receive: Receive
    ) -> bool:
        """Give a message to a receive; False where it does not fit, which ends the receive.

        A message that does not fit stays in the queue: nothing is lost by a wrong buffer.
        """
        try:
            receive.array, memory = _memory_for(receive.destination, spec)
        except (UsageError, TruncatedError, LimitError) as error:
            text = f"{receive.work.what} does not fit the message from {link.peer!r}: {error}"
            receive.work.fail(type(error)(text))
            return False
        if incoming.payload is not None:
            self._copy(link, incoming, memory)
            self._finish(link, incoming.tag, spec.nbytes, receive)
            return True
        if link.accept(incoming, memory):
            self.engine.touch(link)  # its acknowledgement may be due
            self._finish(link, incoming.tag, spec.nbytes, receive)
            return True
        if link.wants_service:
            self.engine.touch(link)
        receive.message = Message(link, incoming, spec)
        incoming.owner = receive
        # Bytes may arrive from now on; only giving up altogether takes the buffer back.
        receive.work.on_cancel(_never)
        receive.work.on_give_up(partial(self._abandon, receive))
        return True

    def _finish(self, link: Link, tag: int, nbytes: int, receive: Receive) -> None:
        work = receive.work
        work.link, work.source, work.tag, work.nbytes = link, link.peer, tag, nbytes
        receive.message = None
        if receive.destination is not None and receive.destination.copy_back is not None:
            try:
                receive.destination.finish()
            except Exception as error:
                # The caller's own object refused the copy: their error, not the engine's.
                work.fail(UsageError(f"{work.what}: cannot store into the destination: {error}"))
                return
        work.finish(receive.array)

    # --- what links report -----------------------------------------------------------

    def placed(self, link: Link, incoming: IncomingMessage) -> None:
        """All bytes of an announced message are in place."""
        receive = incoming.owner
        if isinstance(receive, Receive) and receive.message is not None:
            self._finish(link, incoming.tag, incoming.size, receive)
        elif isinstance(receive, Claim):
            receive.placed()

    def on_event(self, link: Link, event: Event) -> None:
        """Take an event of `link`."""
        match event:
            case MessagePlaced(incoming):
                self.placed(link, incoming)
            case MessageSealed(message):
                _work_of(message).finish(None)
            case MessageDeclined(message):
                work = _work_of(message)
                work.fail(PeerRefusedError(f"{work.what}: the receiver takes no more of it"))
            case MessageWithdrawn(incoming):
                self._withdrawn(link, incoming)
            case Failed():
                self._link_failed(link, event)
            case _:
                pass

    def _withdrawn(self, link: Link, incoming: IncomingMessage) -> None:
        owner = incoming.owner
        if isinstance(owner, Message):
            self._matcher.remove_unexpected(owner)
        elif isinstance(owner, Receive):
            owner.message = None
            if incoming.placed:
                text = f"{owner.work.what}: {link.peer!r} withdrew the message while sending it"
                owner.work.fail(PeerRefusedError(text))
            elif not owner.work.done() and not self._take_waiting(owner):
                # Not a byte of it has come, so the receive stands as if it had not been announced.
                self._matcher.post_again(owner)
                self._let_go_by(owner)
        elif isinstance(owner, Claim):
            owner.withdrawn()

    def _link_failed(self, link: Link, failed: Failed) -> None:
        """Every operation under way with this peer ends, naming itself and the cause."""
        for message in failed.outgoing:
            if message.owner is not None:
                _fail(_work_of(message), failed.error)
        for incoming in failed.incoming:
            owner = incoming.owner
            if isinstance(owner, Message):
                self._matcher.remove_unexpected(owner)
            elif isinstance(owner, Receive):
                owner.message = None
                _fail(owner.work, failed.error)
            elif isinstance(owner, Claim):
                owner.failed(failed.error)

    def peer_lost(self, peer: str, error: TransportError) -> None:
        """No link to `peer` is left: receives that only it could satisfy end."""
        for receive in self._matcher.posted_for(peer):
            self._matcher.remove_posted(receive)
            _fail(receive.work, error)
        self._claims.fail(error, peer)

    def fail_all(self, error: TransportError) -> None:
        """The node is closed: every posted receive ends."""
        for receive in self._matcher.all_posted():
            self._matcher.remove_posted(receive)
            _fail(receive.work, error)
        self._claims.fail(error)

    @property
    def unclaimed(self) -> int:
        """Arrived messages that no receive has taken."""
        return len(self._matcher)


class Operation(NamedTuple):
    """What an operation is, put into words only where somebody reads them."""

    verb: str
    preposition: str
    peer: str | None
    tag: int | None
    nbytes: int | None

    def __str__(self) -> str:
        peer = "any peer" if self.peer is None else repr(self.peer)
        tag = "any" if self.tag is None else self.tag
        size = "" if self.nbytes is None else f", {self.nbytes} bytes"
        return f"{self.verb} {self.preposition} {peer} (tag {tag}{size})"


def _memory_for(destination: DestinationView | None, spec: TensorSpec) -> tuple[object, memoryview]:
    """The object that a tensor is received into, and the flat bytes of it."""
    if destination is None:
        return new_array(spec)
    check_fits(destination, spec)
    return destination.owner, destination.data[: spec.nbytes]


def _never() -> bool:
    return False


def _work_of(message: OutgoingMessage) -> Work[None]:
    work, _ = cast("tuple[Work[None], SourceView]", message.owner)
    return work


def _fail(work: Work[Any], error: TransportError) -> None:
    """End `work` with the link's error, in words of its own."""
    kept = (PeerLostError, ClosedError, KeyExhaustedError)
    kind = type(error) if isinstance(error, kept) else PeerLostError
    work.fail(kind(f"{work.what} failed: {error}"))
