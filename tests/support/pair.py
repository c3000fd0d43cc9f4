"""Two links in virtual time, joined by simulated paths that can be made to misbehave.

    pair = Pair(paths=4, seed=7)
    pair.client.send(b"...", tag=1)
    pair.advance(until=lambda: pair.client.in_flight > 4)
    pair.blackhole(path=2)
    assert pair.deliver() == b"..."

The client calls, the server answers. Nothing here reads a clock or the kernel's
randomness for what happens: latencies, faults and their order follow from `seed`,
which every failure names. The harness itself holds what must always be true: no
packet exceeds the receiver's limit, a link ends once, and time never stands still.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import replace

from transport.config import Config
from transport.crypto.seal import KeyLimits
from transport.identity import Identity, Trust
from transport.identity.evidence import EvidenceExchange, NoEvidence
from transport.link import Link, State, Transmit
from transport.link.drops import Drop
from transport.link.handshake import Terms, open_hello
from transport.link.sender import packet_limit
from transport.path import FaultInjector, Faults
from transport.wire.codec import MalformedError
from transport.wire.packet import Kind, classify

from .side import Side, Wire

SECRET = bytes(range(32))
CLIENT_INDEX = 7
FIRST_SERVER_INDEX = 9
SPINS = 200  # looks at the clock without time passing or a packet moving


class Pair:
    """Client and server links over `paths` simulated paths; all that happens follows `seed`."""

    def __init__(
        self,
        *,
        paths: int = 4,
        seed: int = 1,
        latency: float = 0.001,
        config: Config | None = None,
        server_config: Config | None = None,
        faults: Faults | None = None,
        limits: KeyLimits | None = None,
        trusts: tuple[Trust, Trust] | None = None,
        identities: tuple[Identity, Identity] | None = None,
        evidence: tuple[EvidenceExchange, EvidenceExchange] | None = None,
        calls: str = "server",
        connect: bool = True,
    ) -> None:
        self.now = 0.0
        self.seed = seed
        self.latency = latency
        self.limits = limits
        self._random = random.Random(seed)
        base = config or Config()
        shared = Trust(secret=SECRET)
        given = zip(
            ("client", "server"),
            (base, server_config or base),
            identities or (Identity.generate(), Identity.generate()),
            trusts or (shared, shared),
            evidence or (NoEvidence(), NoEvidence()),
            strict=True,
        )
        self.client, self.server = (
            self._side(name, replace(each, paths=paths), identity, trust, exchange)
            for name, each, identity, trust, exchange in given
        )
        self.injectors = {
            (name, index): FaultInjector(faults or Faults(), self._random.randrange(1 << 30))
            for name in ("client", "server")
            for index in range(paths)
        }
        self.tap: list[tuple[str, int, bytes]] = []
        """Every packet sent since `tapping` was switched on: side, path, bytes."""
        self.tapping = False
        self.filter: Callable[[str, bytes], bytes | None] | None = None
        """An attacker between: what it returns travels on, None does not."""
        self._queue: list[tuple[float, int, str, Wire, bytes]] = []
        self._serial = 0
        self._still = 0
        link = Link(
            self.client.terms,
            self.client.config,
            peer=calls,
            index=CLIENT_INDEX,
            now=self.now,
            limits=limits,
        )
        self.client.links[CLIENT_INDEX] = self.client.chosen = link
        for index in range(paths):
            self.client.wires.append(Wire("client", index))
            self.server.wires.append(Wire("server", index))
            link.add_path(self.client.wires[index], f"sim:{index}", self.now)
        link.begin(self.now)
        if connect:
            self.connect()

    def _side(
        self, name: str, config: Config, identity: Identity, trust: Trust, proof: EvidenceExchange
    ) -> Side:
        terms = Terms(
            name=name,
            identity=identity,
            trust=trust,
            evidence=proof,
            packet_limit=packet_limit(config),
            credit=config.unexpected_bytes,
            random=self._random.randbytes,
        )
        return Side(name, terms, config)

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.client, self.server

    def other(self, name: str) -> Side:
        return self.server if name == "client" else self.client

    @property
    def open(self) -> bool:
        """Whether both links are open and every path of the caller's leads to the peer."""
        return all(
            side.chosen is not None and side.chosen.state is State.OPEN for side in self.sides
        ) and all(path.usable for path in self.client.link.paths)

    def connect(self) -> None:
        self.advance(until=lambda: self.open)

    # --- the wire --------------------------------------------------------------------

    def inject(
        self, to: str, path: int, packet: bytes, delay: float = 0.0, wire: Wire | None = None
    ) -> None:
        """Put a packet on the wire, as an attacker would; `wire` makes it a stranger's."""
        side = self.client if to == "client" else self.server
        arrival = self.now + self.latency + delay
        self._serial += 1
        entry = (arrival, self._serial, to, wire or side.wires[path], bytes(packet))
        heapq.heappush(self._queue, entry)

    def _send(self, side: Side, transmit: Transmit) -> None:
        """What a node does with a packet: give it to the path that the link has chosen."""
        if isinstance(transmit.handle, Wire):
            self._carry(side.name, transmit.handle.path, bytes(transmit.data))

    def _carry(self, name: str, path: int, packet: bytes) -> None:
        receiver = self.other(name)
        assert len(packet) <= receiver.terms.packet_limit, "larger than the receiver takes"
        if self.tapping:
            self.tap.append((name, path, packet))
        if self.filter is not None:
            kept = self.filter(name, packet)
            if kept is None:
                return
            packet = kept
        for delay, copy in self.injectors[name, path].apply(packet):
            self.inject(receiver.name, path, copy, delay)

    def _deliver(self, to: str, wire: Wire, packet: bytes) -> None:
        """What a node does with a packet: find its link, or answer a caller."""
        side = self.client if to == "client" else self.server
        try:
            kind, index = classify(memoryview(packet))
            if kind is Kind.INIT:
                self._answer(side, wire, packet)
            elif index in side.links:
                side.links[index].receive_packet(wire, packet, self.now)
            else:
                side.drops["unknown_link"] += 1
        except MalformedError:
            side.drops["malformed"] += 1
        except Drop as drop:
            side.drops[drop.cause] += 1

    def _answer(self, side: Side, wire: Wire, packet: bytes) -> None:
        hello = open_hello(memoryview(packet), side.terms)
        index = FIRST_SERVER_INDEX + len(side.links)
        link = Link(
            side.terms,
            side.config,
            peer=hello.caller,
            index=index,
            now=self.now,
            hello=hello,
            limits=self.limits,
        )
        side.links[index] = link
        if not side.established:
            side.chosen = link
        link.add_path(wire, f"sim:{wire.path}", self.now)
        link.receive_packet(wire, packet, self.now)

    # --- time ------------------------------------------------------------------------

    def flush(self) -> None:
        """Let both sides say what they have to say."""
        for side in self.sides:
            for link in side.links.values():
                side.take_events(link)
                while (transmit := link.poll_transmit(self.now)) is not None:
                    self._still = 0
                    self._send(side, transmit)
                    side.take_events(link)
                side.take_events(link)

    def express(self, side: Side, payload: bytes, *, tag: int = 0) -> bool:
        """Send at one go; False where the link wants the message to queue."""
        transmit = side.link.express(memoryview(payload), b"", 0, tag, self.now)
        if transmit is None:
            return False
        self._send(side, transmit)
        side.link.expressed(self.now)
        return True

    def _due(self) -> float:
        links = [link for side in self.sides for link in side.links.values()]
        timeouts = [max(link.next_timeout(), self.now) for link in links]
        return min([*timeouts, *(entry[0] for entry in self._queue[:1])])

    def step(self) -> bool:
        """Go to the next thing that happens; False where nothing ever will."""
        self.flush()
        due = self._due()
        if due == float("inf"):
            return False
        self._still = self._still + 1 if due <= self.now else 0
        assert self._still < SPINS, f"time stands still at {self.now} (seed {self.seed})"
        self.now = due
        while self._queue and self._queue[0][0] <= self.now:
            _, _, to, wire, packet = heapq.heappop(self._queue)
            self._still = 0
            self._deliver(to, wire, packet)
        for side in self.sides:
            for link in side.links.values():
                if link.next_timeout() <= self.now:
                    link.handle_timeout(self.now)
        self.flush()
        return True

    def advance(
        self, until: Callable[[], bool], limit: float = 600.0, steps: int = 200_000
    ) -> None:
        """Run until a condition holds; fail after `limit` virtual seconds."""
        end = self.now + limit
        for _ in range(steps):
            if until():
                return
            if not self.step() or self.now > end:
                break
        assert until(), (
            f"not reached by t={self.now:.3f} (seed {self.seed}): "
            f"{[(side.name, side.chosen, side.failure) for side in self.sides]}"
        )

    def run(self, seconds: float) -> None:
        """Let virtual time pass."""
        end = self.now + seconds
        self.flush()
        while self._due() <= end:
            self.step()
        self.now = end

    def settle(self, limit: float = 600.0) -> None:
        """Run until everything sent by either side is acknowledged."""
        self.advance(
            until=lambda: all(s.link.settled_through == s.link.last_message for s in self.sides),
            limit=limit,
        )
        # A link that ended has nothing outstanding either.
        assert not any(side.failed for side in self.sides), f"ended (seed {self.seed})"

    def deliver(self, to: str = "server") -> bytes:
        """Run until the next message has come whole, and return its payload."""
        side = self.client if to == "client" else self.server
        known = len(side.received)
        self.advance(until=lambda: len(side.received) > known)
        return side.received[known][2]

    # --- misfortune --------------------------------------------------------------------

    def blackhole(self, path: int | None = None, *, on: bool = True) -> None:
        """Nothing passes over a path, or over any, either way, and nobody is told."""
        for (_, index), injector in self.injectors.items():
            if path is None or index == path:
                injector.blackholed = on

    def cut(self, path: int) -> None:
        """A connection breaks: what is on it is lost, and the caller's transport notices."""
        self._queue = [entry for entry in self._queue if entry[3].path != path]
        heapq.heapify(self._queue)
        self.client.link.path_down(self.client.wires[path], "cut", self.now)
        self.injectors["server", path].blackholed = True

    def restore(self, path: int) -> None:
        """The connection is made anew: to the server it is a stranger's."""
        self.injectors["server", path].blackholed = False
        self.server.wires[path] = Wire("server", path)
        self.client.link.path_up(self.client.wires[path], self.now)
