"""Experiments whose flows end: single, permutation, incast, burst and imbalance.

All flows begin at once, after their links were opened (the barrier of a training
step), and what counts is when the last of them is done.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Final

from transport.errors import UsageError
from transport.sim import Flow, Result, Topology, fat_tree, leaf_spine

from .experiment import Case, Curve, Experiment, parameter
from .measures import deepest_queue, goodput, ideal_time, round_trip, transfer

_METRICS: Final = ("slowest", "median", "mean", "slowdown")
_PRICE: Final = ("queue", "dropped", "repeated")
_SAMPLES: Final = 200  # of a queue within the ideal time
_WATCHED: Final = 16  # ports sampled at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer(Experiment):
    """Flows of one size that all begin at once."""

    size: int = parameter(2_000_000, "bytes of each flow", size=True)
    routing: str = parameter("ecmp", "ecmp: paths are hashed; spray: path i takes route i")
    deadline: float = parameter(60.0, "virtual seconds after which a run is given up")

    def _fat_tree(self, ports: int) -> Topology:
        return fat_tree(
            ports, rate=self.rate, delay=self.delay, buffer=self.buffer, routing=self.routing
        )

    def _racks(self, spines: int, servers: int) -> Topology:
        return leaf_spine(
            2,
            spines,
            servers,
            rate=self.rate,
            delay=self.delay,
            buffer=self.buffer,
            routing=self.routing,
        )

    def cases(self, seed: int) -> tuple[Case, ...]:
        """One case, which may follow from the seed."""
        return (self.case(seed),)

    @abstractmethod
    def case(self, seed: int) -> Case:
        """The network, who sends to whom, and what is ideal."""

    def transfer(
        self,
        title: str,
        network: str,
        topology: Topology,
        flows: list[Flow],
        *,
        hops: int,
        through_one_cable: int = 1,
        fair: bool = False,
        watch: tuple[str, ...],
    ) -> Case:
        """A case; `through_one_cable` is how many flows share the narrowest place."""
        rtt = round_trip([(self.rate, self.delay)] * hops, self.packet, topology.overhead)
        ideal = ideal_time(through_one_cable * self.size, self.rate, rtt)
        ideals = {"slowest": ideal, "slowdown": 1.0, "dropped": 0.0, "repeated": 0.0}
        if through_one_cable == 1:
            ideals |= {"median": ideal, "mean": ideal}
        if fair:
            ideals["jain"] = 1.0
            ideals["goodput"] = self.rate
        return Case(
            title=title,
            network=f"{network}; {self.cable}, {self.routing} routing",
            topology=topology,
            flows=tuple(flows),
            config=self.config,
            deadline=self.deadline,
            metrics=(*_METRICS, *(("jain", "goodput") if fair else ()), *_PRICE),
            ideal=ideals,
            measure=partial(transfer, ideal=ideal, topology=topology),
            curves=partial(_curves, width=ideal / (_SAMPLES // 4)),
            watch=watch[:_WATCHED],
            sample_every=ideal / _SAMPLES,
        )


def _curves(result: Result, width: float) -> tuple[Curve, ...]:
    return (*deepest_queue(result), *goodput(result, width))


@dataclass(frozen=True, slots=True, kw_only=True)
class Single(Transfer):
    """One flow across an otherwise empty fat tree."""

    name: ClassVar[str] = "single"
    about: ClassVar[str] = "one flow across an empty fat tree"

    def case(self, seed: int) -> Case:
        """Across the whole tree."""
        topology = self._fat_tree(4)
        last = topology.hosts[-1]
        return self.transfer(
            f"single flow of {self.size:,} bytes",
            "fat tree of 4-port switches, 16 hosts",
            topology,
            [Flow(topology.hosts[0], last, self.size)],
            hops=6,
            watch=_way_into(topology, last),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Permutation(Transfer):
    """Every host sends to one other and receives from one other."""

    name: ClassVar[str] = "permutation"
    about: ClassVar[str] = "every host of a full fat tree sends to another"

    hosts: int = parameter(128, "hosts: 16, 54, 128, 250, 432, 686 or 1024")
    paths: int = parameter(128, "paths of a link; the control has one")

    def case(self, seed: int) -> Case:
        """Who sends to whom follows from the seed."""
        ports = _switch_size(self.hosts)
        if ports is None:
            raise UsageError(
                f"--hosts must fill a fat tree (k^3/4 for an even k: 16, 54, 128, 250, 432, "
                f"686, 1024), got {self.hosts}"
            )
        topology = self._fat_tree(ports)
        to = _derangement(self.hosts, random.Random(f"permutation {seed}"))
        hosts = topology.hosts
        return self.transfer(
            f"permutation of {self.hosts} hosts, {self.size:,} bytes each",
            f"fat tree of {ports}-port switches, {self.hosts} hosts",
            topology,
            [Flow(hosts[a], hosts[b], self.size) for a, b in enumerate(to)],
            hops=6,
            watch=tuple(port for host in hosts[:_WATCHED] for port in _way_into(topology, host)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Incast(Transfer):
    """Many hosts send to one."""

    name: ClassVar[str] = "incast"
    about: ClassVar[str] = "many hosts of a fat tree send to one"

    senders: int = parameter(15, "hosts that send")

    def case(self, seed: int) -> Case:
        """In the smallest fat tree that holds all."""
        senders = self.count("senders")
        ports = next(k for k in range(4, 10**6, 2) if k**3 // 4 > senders)
        topology = self._fat_tree(ports)
        receiver, *others = topology.hosts
        # The nearest hosts first would be an easier network: take the farthest.
        chosen = others[-senders:]
        return self.transfer(
            f"incast {senders} to 1, {self.size:,} bytes each",
            f"fat tree of {ports}-port switches, {len(topology.hosts)} hosts",
            topology,
            [Flow(host, receiver, self.size) for host in chosen],
            hops=6,
            through_one_cable=senders,
            fair=True,
            watch=_way_into(topology, receiver),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst(Transfer):
    """Bursty incast: several senders on each of a few servers, and one receiver."""

    name: ClassVar[str] = "burst"
    about: ClassVar[str] = "bursty incast: several senders on each of a few servers"

    servers: int = parameter(4, "servers that send")
    senders: int = parameter(12, "senders on each of them")

    def case(self, seed: int) -> Case:
        """The servers share a leaf switch, the receiver is under the other one."""
        servers, senders = self.count("servers"), self.count("senders")
        topology = self._racks(servers, servers)
        receiver = topology.hosts[servers]
        flows = [
            Flow(f"{server}/{number}", receiver, self.size)
            for server in topology.hosts[:servers]
            for number in range(senders)
        ]
        return self.transfer(
            f"burst of {servers} x {senders} senders to 1, {self.size:,} bytes each",
            f"2 leaf and {servers} spine switches, {2 * servers} hosts",
            topology,
            flows,
            hops=4,
            through_one_cable=len(flows),
            fair=True,
            watch=_way_into(topology, receiver),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Imbalance(Transfer):
    """Servers of one rack send to those of another, over more uplinks than they fill."""

    name: ClassVar[str] = "imbalance"
    about: ClassVar[str] = "servers of one rack send to another rack over half-used uplinks"

    servers: int = parameter(8, "servers in each of the two racks")
    spines: int = parameter(16, "uplinks of a rack, each as fast as a host's cable")
    paths: int = parameter(64, "paths of a link; the control has one")

    def case(self, seed: int) -> Case:
        """Which uplinks a flow is hashed to follows from the seed."""
        servers, spines = self.count("servers"), self.count("spines")
        topology = self._racks(spines, servers)
        hosts = topology.hosts
        used = 100 * servers / spines
        return self.transfer(
            f"imbalance {servers} to {servers} across racks, {self.size:,} bytes each",
            f"2 leaf and {spines} spine switches, uplinks {used:.0f} % used",
            topology,
            [Flow(hosts[n], hosts[servers + n], self.size) for n in range(servers)],
            hops=4,
            watch=tuple(f"leaf0>spine{n}" for n in range(spines)),
        )


def _way_into(topology: Topology, host: str) -> tuple[str, ...]:
    return tuple(port for port in topology.ports if port.endswith(f">{host}"))


def _switch_size(hosts: int) -> int | None:
    """The k of the fat tree of as many hosts."""
    return next((k for k in range(2, 64, 2) if k**3 == 4 * hosts), None)


def _derangement(count: int, chance: random.Random) -> list[int]:
    """A random order of 0..count-1 in which nobody stays in place: one cycle through all.

    Sattolo's algorithm: a shuffle that never leaves an element where it is.
    """
    order = list(range(count))
    for place in range(count - 1, 0, -1):
        other = chance.randrange(place)
        order[place], order[other] = order[other], order[place]
    return order
