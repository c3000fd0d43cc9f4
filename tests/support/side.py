"""One side of a `Pair`: its links, and what their owner saw of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from transport.config import Config
from transport.link import (
    Established,
    Failed,
    Link,
    LinkStats,
    MemoryFailed,
    MessageArrived,
    MessageDeclined,
    MessagePlaced,
    MessageSealed,
    MessageWithdrawn,
    PathBound,
    PathStats,
    State,
    Warned,
)
from transport.link.handshake import Terms
from transport.link.inbox import IncomingMessage
from transport.link.outbox import OutgoingMessage

ACCEPTABLE = 1 << 28  # bytes; an owner declines what it has no memory for


class Wire:
    """The transport's handle of one path at one side."""

    def __init__(self, side: str, path: int) -> None:
        self.side, self.path = side, path

    def __repr__(self) -> str:
        return f"<Wire {self.side} {self.path}>"


class Side:
    """One link and what its owner saw of it."""

    def __init__(self, name: str, terms: Terms, config: Config) -> None:
        self.name = name
        self.terms = terms
        self.config = config
        self.links: dict[int, Link] = {}  # by index, as a node keeps them
        self.chosen: Link | None = None  # the open one, or the latest attempt
        self.wires: list[Wire] = []
        self.drops: Counter[str] = Counter()  # packets that belong to no link
        self.received: list[tuple[int, int, bytes]] = []  # context, tag, payload
        self.order: list[int] = []  # ids as they arrived
        self.waiting: list[IncomingMessage] = []  # announced, where `accepting` is off
        self.accepted: list[IncomingMessage] = []  # large ones, from their acceptance on
        self.unreleased: list[IncomingMessage] = []  # small ones, where `draining` is off
        self.withdrawn: list[IncomingMessage] = []
        self.sealed: list[OutgoingMessage] = []
        self.declined: list[OutgoingMessage] = []
        self.bound: list[int] = []
        self.memory_failures: list[str] = []  # causes
        self.end_memory: Callable[[str], None] = self.memory_failures.append
        """What the owner does when the link wants its path through memory ended, and why."""
        self.warnings: list[str] = []
        self.established = 0
        self.failed: Failed | None = None  # how the chosen link ended
        self.ended: list[Link] = []
        self.accepting = True
        self.draining = True  # small messages are consumed as they come
        self.buffers: dict[int, bytearray] = {}  # of messages being placed, by id

    @property
    def link(self) -> Link:
        assert self.chosen is not None, f"the {self.name} has no link yet"
        return self.chosen

    @property
    def failure(self) -> Exception | None:
        return None if self.failed is None else self.failed.error

    @property
    def payloads(self) -> list[bytes]:
        return [payload for _, _, payload in self.received]

    @property
    def in_flight(self) -> int:
        """Packets sealed and not yet acknowledged."""
        return self.stats().in_flight_packets

    def stats(self) -> LinkStats:
        return self.link.stats()

    def path(self, index: int) -> PathStats:
        return self.stats().paths[index]

    def dropped(self, cause: str) -> int:
        """Packets dropped for this cause, with and without a link."""
        return self.drops[cause] + sum(link.drops[cause] for link in self.links.values())

    def send(
        self, payload: bytes | bytearray, *, tag: int = 0, context: int = 0
    ) -> OutgoingMessage | None:
        return self.link.send(memoryview(payload), b"", context=context, tag=tag)

    def post(self, payload: bytes | bytearray, *, tag: int = 0) -> OutgoingMessage:
        """Send a message that is too large to be copied at once."""
        message = self.send(payload, tag=tag)
        assert message is not None, f"{len(payload)} bytes were sent eagerly"
        return message

    def accept(self, message: IncomingMessage) -> bytearray:
        buffer = self.buffers[message.id] = bytearray(message.size)
        self.accepted.append(message)
        if self.link.accept(message, memoryview(buffer)):
            self._placed(message)
        return buffer

    def consume(self) -> None:
        """Take everything that was left waiting, and whatever comes from now on."""
        self.accepting = self.draining = True
        for message in self.waiting:
            self.accept(message)
        for message in self.unreleased:
            self.link.release(message)
        self.waiting.clear()
        self.unreleased.clear()

    def take_events(self, link: Link) -> None:
        while (event := link.poll_event()) is not None:
            match event:
                case Established():
                    self.established += 1
                    self.chosen, self.failed = link, None  # attempts before it may have failed
                case MessageArrived(message):
                    self._arrived(message)
                case MessagePlaced(message):
                    self._placed(message)
                case MessageWithdrawn(message):
                    self.withdrawn.append(message)
                    self.buffers.pop(message.id, None)
                case MessageSealed(sent):
                    self.sealed.append(sent)
                case MessageDeclined(sent):
                    self.declined.append(sent)
                case PathBound(index=index):
                    self.bound.append(index)
                case MemoryFailed(cause=cause):
                    self.end_memory(cause)
                case Warned(text=text):
                    self.warnings.append(text)
                case Failed():
                    assert link.state is State.CLOSED
                    assert link not in self.ended, "a link ended twice"
                    self.ended.append(link)
                    if link is self.chosen:
                        self.failed = event

    def _placed(self, message: IncomingMessage) -> None:
        payload = bytes(self.buffers.pop(message.id))
        self.received.append((message.context, message.tag, payload))

    def _arrived(self, message: IncomingMessage) -> None:
        self.order.append(message.id)
        if message.payload is None:
            if message.size > ACCEPTABLE:
                self.link.decline(message)
            elif self.accepting:
                self.accept(message)
            else:
                self.waiting.append(message)
            return
        self.received.append((message.context, message.tag, bytes(message.payload)))
        if self.draining:
            self.link.release(message)
        else:
            self.unreleased.append(message)
