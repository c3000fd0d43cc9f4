"""What a network is made of: hosts, switches, and the cables between them.

A `Topology` is a value; nothing of it moves. The functions below build the
usual ones, and `Topology(hosts=..., switches=..., cables=...)` builds any
other. Both directions of a cable are ports of their own, named `from>to`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from ..errors import UsageError

GBIT: Final = 10**9  # bits a second
SLOWEST: Final = 1000  # bits a second
OVERHEAD: Final = 66  # bytes: preamble and gap 20, Ethernet 14 and 4, IPv4 20, UDP 8
RATE: Final = 100.0 * GBIT
DELAY: Final = 1e-6  # seconds: 100 m of fibre and a switch's pipeline
BUFFER: Final = 1024 * 1024  # bytes for each port of a switch


class Routing(Enum):
    """How a switch chooses among ports that lead equally near to the destination."""

    ECMP = "ecmp"  # by a hash of the flow: each path of a link has an entropy of its own
    SPRAY = "spray"  # path i takes route i, so that as many paths as routes use each once


@dataclass(frozen=True, slots=True)
class Cable:
    """A cable between two nodes, the same both ways.

    `rate` is in bits a second, `delay` in seconds, `buffer` in bytes for the port of
    a switch (a host's own queue is not limited), `loss` the chance of each packet.
    """

    a: str
    b: str
    rate: float = field(default=RATE, kw_only=True)
    delay: float = field(default=DELAY, kw_only=True)
    buffer: int = field(default=BUFFER, kw_only=True)
    loss: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        name = f"cable {self.a}-{self.b}"
        if self.a == self.b:
            raise UsageError(f"{name} must join two different nodes")
        if not SLOWEST <= self.rate < float("inf"):
            raise UsageError(f"{name} must have a rate of {SLOWEST} bit/s or more, got {self.rate}")
        if not 0 <= self.delay < float("inf"):
            raise UsageError(f"{name} must have a delay of 0 s or more, got {self.delay}")
        if self.buffer < 1:
            raise UsageError(f"{name} must have a buffer of 1 byte or more, got {self.buffer}")
        if not 0 <= self.loss < 1:
            raise UsageError(f"{name} must have a loss in 0..1, below 1, got {self.loss}")

    @property
    def ports(self) -> tuple[str, str]:
        """Names of its two directions."""
        return f"{self.a}>{self.b}", f"{self.b}>{self.a}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """Hosts and switches by name, and the cables between them.

    Raises:
        UsageError: a name is used twice or not at all, a host has not exactly one
            cable, or some node cannot be reached from the others.
    """

    hosts: tuple[str, ...]
    switches: tuple[str, ...]
    cables: tuple[Cable, ...]
    routing: Routing | str = Routing.ECMP
    overhead: int = OVERHEAD  # bytes that a packet adds to its sealed bytes on each cable

    def __post_init__(self) -> None:
        object.__setattr__(self, "hosts", tuple(self.hosts))
        object.__setattr__(self, "switches", tuple(self.switches))
        object.__setattr__(self, "cables", tuple(self.cables))
        object.__setattr__(self, "routing", _routing(self.routing))
        if self.overhead < 0:
            raise UsageError(f"overhead must be 0 bytes or more, got {self.overhead}")
        if not self.hosts:
            raise UsageError("a topology needs at least one host, got none")
        self._check_names()
        self._check_cables()
        self._check_reach()

    def _check_names(self) -> None:
        seen: set[str] = set()
        for name in (*self.hosts, *self.switches):
            if name in seen:
                raise UsageError(f"node {name!r} is listed twice")
            if not name or "/" in name or ">" in name:
                raise UsageError(f"a node's name must have no '/' or '>', got {name!r}")
            seen.add(name)

    def _check_cables(self) -> None:
        known = {*self.hosts, *self.switches}
        ports: set[str] = set()
        ends = dict.fromkeys(self.hosts, 0)
        for cable in self.cables:
            for name in (cable.a, cable.b):
                if name not in known:
                    raise UsageError(f"cable {cable.a}-{cable.b} ends at unknown node {name!r}")
                if name in ends:
                    ends[name] += 1
            if cable.a in ends and cable.b in ends:
                raise UsageError(f"cable {cable.a}-{cable.b} joins two hosts without a switch")
            if cable.ports[0] in ports:
                raise UsageError(f"there are two cables {cable.a}-{cable.b}; add their rates")
            ports.update(cable.ports)
        for name, count in ends.items():
            if count != 1:
                raise UsageError(f"host {name!r} must have exactly one cable, got {count}")

    def _check_reach(self) -> None:
        beside: dict[str, list[str]] = {name: [] for name in (*self.hosts, *self.switches)}
        for cable in self.cables:
            beside[cable.a].append(cable.b)
            beside[cable.b].append(cable.a)
        reached, waiting = {self.hosts[0]}, [self.hosts[0]]
        while waiting:
            for name in beside[waiting.pop()]:
                if name not in reached:
                    reached.add(name)
                    waiting.append(name)
        cut = [name for name in beside if name not in reached]
        if cut:
            raise UsageError(f"{cut[0]!r} cannot be reached from {self.hosts[0]!r}")

    @property
    def ports(self) -> tuple[str, ...]:
        """Names of all directed ports, in the order of the cables."""
        return tuple(name for cable in self.cables for name in cable.ports)


def _routing(routing: Routing | str) -> Routing:
    try:
        return Routing(routing)
    except ValueError:
        known = ", ".join(repr(each.value) for each in Routing)
        raise UsageError(f"routing must be one of {known}, got {routing!r}") from None


def _at_least(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or value < least:
        raise UsageError(f"{name} must be a whole number, {least} or more, got {value!r}")


def _names(prefix: str, count: int) -> tuple[str, ...]:
    return tuple(f"{prefix}{index}" for index in range(count))


def star(
    hosts: int,
    *,
    rate: float = RATE,
    delay: float = DELAY,
    buffer: int = BUFFER,
    routing: Routing | str = Routing.ECMP,
    overhead: int = OVERHEAD,
) -> Topology:
    """Hosts `h0`, `h1`... around one switch `s0`."""
    _at_least("hosts", hosts, 1)
    names = _names("h", hosts)
    return Topology(
        hosts=names,
        switches=("s0",),
        cables=tuple(_all(names, "s0", rate, delay, buffer)),
        routing=_routing(routing),
        overhead=overhead,
    )


def leaf_spine(
    leaves: int,
    spines: int,
    hosts_per_leaf: int,
    *,
    rate: float = RATE,
    uplink_rate: float | None = None,
    delay: float = DELAY,
    buffer: int = BUFFER,
    routing: Routing | str = Routing.ECMP,
    overhead: int = OVERHEAD,
) -> Topology:
    """Every `leaf` is joined with every `spine`; hosts `h0`... fill leaf after leaf.

    The oversubscription is `hosts_per_leaf * rate / (spines * uplink_rate)`;
    `uplink_rate` is the hosts' own where it is not given.
    """
    _at_least("leaves", leaves, 1)
    _at_least("spines", spines, 1)
    _at_least("hosts_per_leaf", hosts_per_leaf, 1)
    hosts, leaf, spine = (
        _names("h", leaves * hosts_per_leaf),
        _names("leaf", leaves),
        _names("spine", spines),
    )
    up = rate if uplink_rate is None else uplink_rate
    cables: list[Cable] = []
    for index, name in enumerate(leaf):
        below = hosts[index * hosts_per_leaf : (index + 1) * hosts_per_leaf]
        cables += _all(below, name, rate, delay, buffer)
        cables += [Cable(name, above, rate=up, delay=delay, buffer=buffer) for above in spine]
    return Topology(
        hosts=hosts,
        switches=leaf + spine,
        cables=tuple(cables),
        routing=_routing(routing),
        overhead=overhead,
    )


def fat_tree(
    k: int,
    *,
    rate: float = RATE,
    delay: float = DELAY,
    buffer: int = BUFFER,
    routing: Routing | str = Routing.ECMP,
    overhead: int = OVERHEAD,
) -> Topology:
    """The three-tier fat tree of `k`-port switches (Al-Fares et al., SIGCOMM 2008).

    `k` pods of k/2 `edge` and k/2 `agg` switches, named `edge{pod}.{i}`, k²/4
    switches `core{i}`, and k³/4 hosts; two pods are joined by k²/4 routes.
    """
    _at_least("k", k, 2)
    if k % 2:
        raise UsageError(f"a fat tree needs an even number of ports a switch, got k={k}")
    half = k // 2
    hosts = _names("h", k * half * half)
    edges: list[str] = []
    aggs: list[str] = []
    cables: list[Cable] = []
    for pod in range(k):
        edge, agg = _names(f"edge{pod}.", half), _names(f"agg{pod}.", half)
        for index, name in enumerate(edge):
            first = (pod * half + index) * half
            cables += _all(hosts[first : first + half], name, rate, delay, buffer)
            cables += _all((name,) * half, agg, rate, delay, buffer)
        for index, name in enumerate(agg):
            core = tuple(f"core{index * half + i}" for i in range(half))
            cables += _all((name,) * half, core, rate, delay, buffer)
        edges += edge
        aggs += agg
    return Topology(
        hosts=hosts,
        switches=(*edges, *aggs, *_names("core", half * half)),
        cables=tuple(cables),
        routing=_routing(routing),
        overhead=overhead,
    )


def wide_area(
    *,
    rate: float = 10.0 * GBIT,
    delay: float,
    loss: float = 0.0,
    buffer: int = BUFFER,
    host_rate: float | None = None,
    overhead: int = OVERHEAD,
) -> Topology:
    """Hosts `h0` and `h1` behind routers `r0` and `r1`, with a long line between those.

    `delay` is the line's, one way; the hosts' cables add a microsecond each.
    `host_rate` is the line's where it is not given.
    """
    near = rate if host_rate is None else host_rate
    return Topology(
        hosts=("h0", "h1"),
        switches=("r0", "r1"),
        cables=(
            Cable("h0", "r0", rate=near, delay=DELAY, buffer=buffer),
            Cable("r0", "r1", rate=rate, delay=delay, buffer=buffer, loss=loss),
            Cable("r1", "h1", rate=near, delay=DELAY, buffer=buffer),
        ),
        overhead=overhead,
    )


def _all(
    names: Iterable[str], to: str | Iterable[str], rate: float, delay: float, buffer: int
) -> list[Cable]:
    """Cables from each of `names` to one node, or each to its own."""
    pairs = [(name, to) for name in names] if isinstance(to, str) else zip(names, to, strict=True)
    return [Cable(a, b, rate=rate, delay=delay, buffer=buffer) for a, b in pairs]
