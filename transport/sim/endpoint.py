"""Endpoints of a simulated host, and their ends of links.

An endpoint is what a process with a `Node` would be: a name, an identity, links
by receiver index, one credit pool. A `LinkEnd` does for one link what a node's
engine does, in the order that `transport.link` asks for, and checks what the
link does at every step.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from itertools import count
from struct import Struct
from typing import Final

from ..config import Config
from ..errors import TransportError
from ..identity import Identity, Trust
from ..link import (
    Established,
    Failed,
    Link,
    MessageArrived,
    MessageDeclined,
    MessagePlaced,
    MessageSealed,
    MessageWithdrawn,
    Transmit,
)
from ..link.credit import AHEAD as CREDIT_AHEAD
from ..link.credit import CreditPool
from ..link.drops import UNKNOWN_LINK, Drop
from ..link.handshake import Terms, open_hello
from ..link.inbox import IncomingMessage
from ..link.sender import packet_limit
from ..wire.packet import (
    BULK_HEADER,
    BULK_OVERHEAD,
    FIRST_BULK,
    FIRST_FRAMES,
    FIRST_PAIR,
    Kind,
    first_byte,
    split_pair,
)
from .events import NEVER, SECOND
from .host import Host, Wire
from .invariants import SPINS, InvariantError, Nonces, check_credit, check_window
from .ledger import FlowState, Incoming, Ledger
from .policy import HostView, Policy

FIRST_INIT: Final = first_byte(Kind.INIT)
AHEAD: Final = 2  # messages of one flow that its link holds at once
_SEALED: Final = (FIRST_BULK, FIRST_FRAMES, FIRST_PAIR)
_RECEIVER: Final = Struct("<4xI")


class LinkEnd:
    """One side of a link: it drives the link, and checks what the link does."""

    __slots__ = (
        "_alarms",
        "_incoming",
        "_name",
        "_nonces",
        "_still",
        "_still_at",
        "endpoint",
        "established",
        "failure",
        "link",
        "queued",
    )

    def __init__(self, endpoint: Endpoint, link: Link) -> None:
        self.endpoint = endpoint
        self.link = link
        self.queued = False  # stands in its host's queue
        self.established = False
        self.failure: TransportError | None = None
        self._incoming: dict[int, tuple[IncomingMessage, Incoming]] = {}  # by message id
        self._name = f"the link of {endpoint.name} to {link.peer}"
        self._nonces = Nonces(self._name)
        self._alarms: list[int] = []  # times of scheduled alarms, a heap
        self._still_at = self._still = 0

    # --- out -------------------------------------------------------------------------

    def post(self, time: int, state: FlowState) -> None:
        """Give the link messages of a flow, as many as it may hold at once."""
        flow, ledger = state.flow, self.endpoint.ledger
        if self.failure is not None:
            return  # the flow is left, and the result says why
        while state.posted < flow.count and state.held < AHEAD:
            number = state.posted
            state.posted += 1
            content = ledger.content(state, number)
            if self.link.send(content, b"", context=number, tag=state.index) is not None:
                state.held += 1
        self.endpoint.host.stir(time, self)

    def poll(self, time: int) -> Transmit | None:
        """The next packet, if there is one; all that must hold of it is checked."""
        link = self.link
        flight = link.flight
        # Probes are never repeated and count in no window.
        before, window = flight.bytes - flight.probe_bytes, link.controller.window_bytes
        transmit = link.poll_transmit(time / SECOND)
        if transmit is None:
            return None
        data = transmit.data
        first = data[0]
        if first in _SEALED:
            for packet in split_pair(memoryview(data)) if first == FIRST_PAIR else (data,):
                self._nonces.check(packet)
            in_flight = flight.bytes - flight.probe_bytes
            if first != FIRST_FRAMES and in_flight > before > 0:
                check_window(
                    self._name,
                    before=before,
                    in_flight=in_flight,
                    window=window,
                    packets=len(flight) - flight.probes,
                    most=self.endpoint.window_packets,
                )
        return transmit

    # --- in --------------------------------------------------------------------------

    def receive(self, time: int, wire: Wire, data: bytes) -> None:
        """Feed a packet to the link; compare what it placed with what was sent."""
        link = self.link
        if data[0] == FIRST_BULK and len(data) > BULK_OVERHEAD:
            header = BULK_HEADER.unpack_from(data)
            expected = self._incoming.get(header[5])
            drops = sum(link.drops.values()) if link.drops else 0
            link.receive_packet(wire, data, time / SECOND)
            if expected is not None and drops == (sum(link.drops.values()) if link.drops else 0):
                offset, size = header[6], len(data) - BULK_OVERHEAD
                message, incoming = expected
                if offset + size > message.granted:
                    raise InvariantError(f"{self!r} took bytes that it had not granted")
                incoming.verify(offset, self.endpoint.ledger.scratch[offset : offset + size])
        else:
            link.receive_packet(wire, data, time / SECOND)
        self.settle(time)

    def settle(self, time: int) -> None:
        """After the link was fed: take its events, and let it speak."""
        self.take_events(time)
        self.endpoint.host.stir(time, self)
        if self.queued:  # it waits for the line, and its deadlines do not
            self.arm(time)

    def take_events(self, time: int) -> None:
        """Do what the owner of a link does with its events."""
        link = self.link
        while (event := link.poll_event()) is not None:
            match event:
                case MessageArrived(message):
                    self._arrived(time, message)
                case MessagePlaced(message):
                    self._placed(time, message)
                case MessageSealed(sent):
                    state = self.endpoint.ledger.states[sent.tag]
                    state.held -= 1
                    self.post(time, state)
                case Established():
                    self.established = True
                case Failed(error=error):
                    self.failure = error
                    self.endpoint.links.pop(link.index, None)
                case MessageDeclined() | MessageWithdrawn():
                    raise InvariantError(f"{self!r} says that a message was given up: {event}")
                case _:
                    pass  # a path was bound, or the operator is warned
        self.endpoint.stir_granted(time)

    def _arrived(self, time: int, message: IncomingMessage) -> None:
        ledger = self.endpoint.ledger
        incoming = ledger.expect(
            message.tag,
            message.context,
            size=message.size,
            src=self.link.peer,
            dst=self.endpoint.name,
        )
        if message.payload is not None:
            incoming.verify(0, memoryview(message.payload))
            self.endpoint.complete(time, incoming)
            self.link.release(message)
            return
        self._incoming[message.id] = message, incoming
        if self.link.accept(message, ledger.scratch[: message.size]):
            self._placed(time, message)

    def _placed(self, time: int, message: IncomingMessage) -> None:
        _, incoming = self._incoming.pop(message.id, (None, None))
        if incoming is None:
            raise InvariantError(f"{self!r} delivered message {message.id}, which nobody awaits")
        if message.follows and not incoming.verified:  # it came behind its announcement
            incoming.verify(0, self.endpoint.ledger.scratch[: message.size])
        self.endpoint.complete(time, incoming)

    @property
    def lacking(self) -> int:
        """Bytes of large messages that were granted, each by itself, and have not been received."""
        return sum(
            message.granted - each.verified
            for message, each in self._incoming.values()
            if not message.follows
        )

    # --- time ------------------------------------------------------------------------

    def arm(self, time: int) -> None:
        """See to it that the link is called when it wants to be."""
        due = self.link.next_timeout()
        if due == float("inf"):
            return
        # The next picosecond: float seconds must not round to before what the link asked for.
        alarm = max(int(due * SECOND) + 1, time)
        alarms = self._alarms
        if alarm >= NEVER or (alarms and alarms[0] <= alarm):
            return
        heappush(alarms, alarm)
        self.endpoint.host.events.at(alarm, self._alarm)

    def _alarm(self, time: int, _: object) -> None:
        heappop(self._alarms)
        link, now = self.link, time / SECOND
        if link.next_timeout() > now:
            self.arm(time)
            return
        self._still = self._still + 1 if time == self._still_at else 0
        self._still_at = time
        if self._still > SPINS:
            raise InvariantError(f"{self!r} wants to be called at {now} s again and again")
        link.handle_timeout(now)
        self.settle(time)

    def __repr__(self) -> str:
        return self._name


class Endpoint:
    """One process on a host: it calls others, answers calls, and holds the links."""

    def __init__(
        self,
        name: str,
        host: Host,
        *,
        config: Config,
        policy: Policy,
        ledger: Ledger,
        trust: Trust,
        chance: random.Random,
        on_complete: Callable[[], None],
    ) -> None:
        self.name = name
        self.host = host
        self.ledger = ledger
        self.links: dict[int, LinkEnd] = {}  # by receiver index
        self.ends: dict[str, LinkEnd] = {}  # by peer: the one that messages go to
        self.drops: Counter[str] = Counter()  # packets that belong to no link
        self.window_packets = config.window_packets
        self._config = config
        self._policy = policy
        self._chance = chance
        self._indices = count(1)
        self._on_complete = on_complete
        self._terms = Terms(
            name=name,
            identity=Identity.generate(chance.randbytes),
            trust=trust,
            packet_limit=packet_limit(config),
            credit=config.unexpected_bytes,
            random=chance.randbytes,
        )
        self._limit_seen = 0  # the highest of the pool so far
        self.credit: CreditPool | None = policy.credit(self._view()) if policy.credit else None

    def _view(self) -> HostView:
        chance = random.Random(self._chance.getrandbits(64))
        return HostView(config=self._config, rate=float(self.host.uplink.rate), random=chance)

    def call(self, time: int, peer: str, wires: Sequence[Wire]) -> LinkEnd:
        """Begin a link to `peer` over these paths."""
        end = self.ends[peer] = self._link(time, peer)
        for wire in wires:
            end.link.add_path(wire, wire.name, time / SECOND)
        end.link.begin(time / SECOND)
        self.host.stir(time, end)
        return end

    def _link(self, time: int, peer: str, packet: bytes | None = None) -> LinkEnd:
        hello = None if packet is None else open_hello(memoryview(packet), self._terms)
        link = Link(
            self._terms,
            self._config,
            peer=peer if hello is None else hello.caller,
            index=next(self._indices),
            now=time / SECOND,
            hello=hello,
            controller=self._policy.controller(self._view()),
            scheduler=self._policy.scheduler(self._view()),
            credit=self.credit,
        )
        end = self.links[link.index] = LinkEnd(self, link)
        return end

    def receive(self, time: int, wire: Wire, data: bytes) -> None:
        """What a node does with a packet: find its link, or answer a caller."""
        if data[0] == FIRST_INIT:
            self._answer(time, wire, data)
            return
        end = self.links.get(_RECEIVER.unpack_from(data)[0])
        if end is None:
            self.drops[UNKNOWN_LINK] += 1
        else:
            end.receive(time, wire, data)

    def _answer(self, time: int, wire: Wire, data: bytes) -> None:
        try:
            end = self._link(time, "", data)
        except Drop as drop:
            self.drops[drop.cause] += 1
            return
        self.ends[end.link.peer] = end
        end.link.add_path(wire, wire.name, time / SECOND)
        end.receive(time, wire, data)

    def stir_granted(self, time: int) -> None:
        """By what one link was fed, others may have granted something, and have to say so."""
        pool = self.credit
        if pool is None or not pool.stirred:
            return
        self._limit_seen = max(self._limit_seen, pool.limit)
        owners = list(pool.stirred)
        pool.stirred.clear()
        for owner in owners:
            assert isinstance(owner, Link), "accounts are opened by links"
            other = self.links.get(owner.index)
            if other is not None:
                self.host.stir(time, other)

    def complete(self, time: int, incoming: Incoming) -> None:
        """A message is whole."""
        self.ledger.complete(incoming, time)
        if self.credit is not None:
            self._limit_seen = max(self._limit_seen, self.credit.limit)
            check_credit(
                f"the pool of {self.name}",
                counted=self.credit.outstanding,
                granted=sum(end.lacking for end in self.links.values()),
                limit=CREDIT_AHEAD * self._limit_seen,
            )
        if not self.ledger.unfinished:
            self._on_complete()
