"""A run: endpoints are linked through the network, then flows begin, then the result is read.

Handshakes and JOINs travel through the same ports as everything else, before
the barrier; faults and flows count their time from there. A run ends when all
flows are delivered or at its deadline, in virtual time either way.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from ..config import Config
from ..errors import UsageError
from ..identity import Trust
from ..link.sender import packet_limit
from .endpoint import Endpoint, LinkEnd
from .events import SECOND, Events, picoseconds
from .fabric import Fabric
from .faults import Fault
from .host import Host, Wire
from .invariants import check_conservation
from .ledger import Flow, FlowState, Ledger
from .policy import FABRIC, Policy
from .result import FlowResult, PortResult, Result, UnfinishedError
from .sampler import Sampler
from .topology import Routing, Topology

SETUP_LIMIT: Final = 30 * SECOND  # virtual time for all handshakes
SETUP_STEP: Final = SECOND // 10_000
SETUP_PAUSE: Final = SECOND // 1_000_000  # between two calls, so that they do not collide
LONGEST: Final = 1_000_000  # seconds a run may take: what 63 bits of picoseconds hold
NAMED: Final = 5  # flows that an error names

Pair = tuple[str, str]


class Simulation:
    """One run of a policy on a topology; everything that happens follows from `seed`.

    `sample_every` (virtual seconds) asks for a `Series`; `watch` names the ports
    whose queues it holds, by default the last one before each receiver.

    Raises:
        UsageError: a port is unknown, or a buffer is smaller than a packet.
    """

    def __init__(
        self,
        topology: Topology,
        *,
        policy: Policy,
        seed: int = 1,
        config: Config = FABRIC,
        faults: Iterable[Fault] = (),
        sample_every: float | None = None,
        watch: Iterable[str] = (),
    ) -> None:
        self.topology = topology
        self.policy = policy
        self.seed = seed
        self.config = policy.config(config)
        self._sample_every = sample_every
        self._watch = tuple(watch)
        self._check()
        self._events = Events()
        self._fabric = Fabric(topology, seed=seed, events=self._events, faults=faults)
        self._chance = random.Random(f"simulation {seed}")
        self._hosts: dict[str, Host] = {}
        self._endpoints: dict[str, Endpoint] = {}
        self._calls: dict[Pair, LinkEnd] = {}  # by caller and answerer
        self._used = False

    def _check(self) -> None:
        largest = packet_limit(self.config) + self.topology.overhead
        for cable in self.topology.cables:
            if cable.buffer < largest:
                raise UsageError(
                    f"the buffer of {cable.a}-{cable.b} must hold a packet of {largest} bytes, "
                    f"got {cable.buffer}"
                )
        known = set(self.topology.ports)
        for name in self._watch:
            if name not in known:
                raise UsageError(f"port {name!r} is to be watched and does not exist")
        if self._sample_every is not None and not self._sample_every > 0:
            raise UsageError(f"sample_every must be above 0 s, got {self._sample_every}")

    def run(self, flows: Sequence[Flow], *, deadline: float, strict: bool = True) -> Result:
        """Run these flows until all are delivered, or until `deadline` seconds after the barrier.

        With `strict` off, flows that are left are only named by `Result.unfinished`.

        Raises:
            UsageError: there is no flow, a flow names an unknown host, the deadline is
                not after every start, or this simulation has run before.
            UnfinishedError: flows are left at the deadline; or links were not made.
            InvariantError: something happened that must never happen.
        """
        self._check_flows(flows, deadline)
        ledger = Ledger(flows, self.seed)
        setup = self._link_up(ledger, flows)
        events = self._events
        self._fabric.break_lines(setup)
        for start, state in ledger.starts():
            events.at(setup + start, self._begin, state)
        sampler = self._sampler(ledger, setup)
        events.run(setup + picoseconds(deadline))
        result = self._result(ledger, setup, sampler)
        if strict and result.unfinished:
            raise UnfinishedError(self._what_is_left(result, deadline), result)
        return result

    def _check_flows(self, flows: Sequence[Flow], deadline: float) -> None:
        if self._used:
            raise UsageError("a simulation runs once; make another for another run")
        self._used = True
        if not flows:
            raise UsageError("a run needs at least one flow, got none")
        known = set(self.topology.hosts)
        for flow in flows:
            for name in (flow.src, flow.dst):
                if name.partition("/")[0] not in known:
                    raise UsageError(f"a flow names {name!r}, whose host does not exist")
            if not flow.start < deadline <= LONGEST:
                raise UsageError(
                    f"the deadline must lie after every start and not above {LONGEST} s, "
                    f"got {deadline} s with a start at {flow.start} s"
                )

    # --- before the barrier ------------------------------------------------------------

    def _endpoint(self, name: str, ledger: Ledger, trust: Trust) -> Endpoint:
        endpoint = self._endpoints.get(name)
        if endpoint is not None:
            return endpoint
        at = name.partition("/")[0]
        host = self._hosts.get(at)
        if host is None:
            uplink, overhead = self._fabric.uplink(at), self.topology.overhead
            host = self._hosts[at] = Host(at, uplink, self._events, overhead)
        endpoint = self._endpoints[name] = Endpoint(
            name,
            host,
            config=self.config,
            policy=self.policy,
            ledger=ledger,
            trust=trust,
            chance=random.Random(self._chance.getrandbits(64)),
            on_complete=self._stop,
        )
        return endpoint

    def _stop(self) -> None:
        self._events.stopped = True

    def _link_up(self, ledger: Ledger, flows: Sequence[Flow]) -> int:
        """Link every pair that a flow needs, over all paths; return when that was done."""
        events = self._events
        trust = Trust(secret=self._chance.randbytes(32))
        for flow in flows:
            if (flow.src, flow.dst) in self._calls or (flow.dst, flow.src) in self._calls:
                continue
            caller = self._endpoint(flow.src, ledger, trust)
            answerer = self._endpoint(flow.dst, ledger, trust)
            time = len(self._calls) * SETUP_PAUSE
            events.run(time)
            wires = self._wires(caller, answerer)
            self._calls[flow.src, flow.dst] = caller.call(time, flow.dst, wires)
        waiting = dict(self._calls)
        while waiting:
            if events.now >= SETUP_LIMIT:
                missing = ", ".join(f"{a} to {b}" for a, b in list(waiting)[:NAMED])
                raise UnfinishedError(
                    f"{len(waiting)} links were not made in {SETUP_LIMIT // SECOND} s: {missing}"
                )
            events.run(events.now + SETUP_STEP)
            waiting = {pair: end for pair, end in waiting.items() if not self._joined(pair, end)}
        quiet = events.now + max(SETUP_STEP, picoseconds(self.config.acknowledge_after))
        while self._fabric.traffic.in_network or events.now < quiet:
            events.run(events.now + SETUP_STEP)
        return events.now

    def _joined(self, pair: Pair, end: LinkEnd) -> bool:
        answerer = self._endpoints[pair[1]].ends.get(pair[0])
        return (
            end.established
            and answerer is not None
            and answerer.established
            and all(path.usable for path in end.link.paths)
        )

    def _wires(self, caller: Endpoint, answerer: Endpoint) -> list[Wire]:
        """The paths of one link, each with an entropy of its own and the same back."""
        fabric, near, far = self._fabric, caller.host, answerer.host
        sprays = self.topology.routing is Routing.SPRAY
        first = self._chance.getrandbits(16)
        wires = []
        for index in range(self.config.paths):
            spread = first + index if sprays else self._chance.getrandbits(16)
            there = [port.accept for port in fabric.way(near.name, far.name, spread)]
            back = [port.accept for port in fabric.way(far.name, near.name, spread)]
            wire = Wire(caller, f"{caller.name}>{answerer.name}#{index}", [*there, far.deliver])
            twin = Wire(answerer, f"{answerer.name}>{caller.name}#{index}", [*back, near.deliver])
            wire.twin, twin.twin = twin, wire
            wires.append(wire)
        return wires

    # --- after it ----------------------------------------------------------------------

    def _begin(self, time: int, state: FlowState) -> None:
        flow = state.flow
        self._endpoints[flow.src].ends[flow.dst].post(time, state)

    def _sampler(self, ledger: Ledger, origin: int) -> Sampler | None:
        if self._sample_every is None:
            return None
        receivers = dict.fromkeys(state.flow.dst.partition("/")[0] for state in ledger.states)
        last = {port.partition(">")[2]: port for port in self.topology.ports}
        names = self._watch or tuple(last[name] for name in receivers)
        return Sampler(
            self._events,
            [self._fabric.ports[name] for name in names],
            ledger.states,
            interval=picoseconds(self._sample_every),
            origin=origin,
        )

    def _result(self, ledger: Ledger, origin: int, sampler: Sampler | None) -> Result:
        events, traffic = self._events, self._fabric.traffic
        check_conservation(traffic, self._fabric.travelling())
        return Result(
            policy=self.policy.name,
            seed=self.seed,
            flows=tuple(_flow_result(state, origin) for state in ledger.states),
            ports={
                port.name: PortResult(
                    packets=port.packets,
                    bytes=port.bytes,
                    peak_queue=port.peak,
                    drops=dict(port.drops),
                )
                for port in self._fabric.ports.values()
                if port.packets or port.drops
            },
            links={
                (a, b): (end.link.stats(), self._endpoints[b].ends[a].link.stats())
                for (a, b), end in self._calls.items()
            },
            strays=dict(sum((each.drops for each in self._endpoints.values()), Counter())),
            series=None if sampler is None else sampler.series(),
            packets_sent=traffic.sent,
            packets_duplicated=traffic.duplicated,
            packets_delivered=traffic.delivered,
            packets_dropped=traffic.dropped,
            packets_in_network=traffic.in_network,
            setup=origin / SECOND,
            elapsed=(events.now - origin) / SECOND,
            events=events.count,
            digest=events.trace.digest(),
        )

    def _what_is_left(self, result: Result, deadline: float) -> str:
        left = [each for each in result.flows if each.end is None]
        named = ", ".join(
            f"{each.name} ({each.received} of {each.flow.size * each.flow.count} bytes)"
            for each in left[:NAMED]
        )
        more = f" and {len(left) - NAMED} more" if len(left) > NAMED else ""
        failures = [end for end in self._calls.values() if end.failure is not None]
        why = f"; {failures[0]!r} failed: {failures[0].failure}" if failures else ""
        return (
            f"{len(left)} of {len(result.flows)} flows are left after {deadline} s: "
            f"{named}{more}{why}"
        )


def _flow_result(state: FlowState, origin: int) -> FlowResult:
    flow = state.flow
    return FlowResult(
        flow=flow,
        name=state.name,
        start=flow.start,
        end=None if state.end is None else (state.end - origin) / SECOND,
        received=state.received,
        delivered=flow.count - state.undelivered,
    )
