"""The network of a run: a port for each direction of each cable, and its faults."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Final

from ..errors import UsageError
from ..path.fault import Faults
from .events import Events, picoseconds
from .faults import Fault, phases
from .port import FaultyPort, Packet, Port, Traffic
from .routing import Routes
from .topology import Cable, Topology

UNLIMITED: Final = 1 << 60  # bytes: a host's own queue


class Fabric:
    """Ports and ways of one topology.

    Raises:
        UsageError: a fault names a port that does not exist.
    """

    def __init__(
        self, topology: Topology, *, seed: int, events: Events, faults: Iterable[Fault] = ()
    ) -> None:
        self.traffic = Traffic()
        self.ports: dict[str, Port] = {}
        self._events = events
        self._routes = Routes(topology, seed=seed)
        self._chance = random.Random(f"faults {seed}")
        self._faults: dict[str, list[Fault]] = {}
        known = set(topology.ports)
        for fault in (*_losses(topology), *faults):
            if fault.port not in known:
                raise UsageError(f"a fault names port {fault.port!r}, which does not exist")
            self._faults.setdefault(fault.port, []).append(fault)
        hosts = set(topology.hosts)
        for cable in topology.cables:
            for name, sender in zip(cable.ports, (cable.a, cable.b), strict=True):
                self._add_port(name, cable, UNLIMITED if sender in hosts else cable.buffer)
        self._uplinks = {host: self.ports[name] for host, name in _uplinks(topology).items()}

    def _add_port(self, name: str, cable: Cable, buffer: int) -> None:
        kind = FaultyPort if name in self._faults else Port
        self.ports[name] = kind(
            name,
            len(self.ports),
            rate=int(cable.rate),
            delay=picoseconds(cable.delay),
            buffer=buffer,
            events=self._events,
            traffic=self.traffic,
        )

    def break_lines(self, origin: int) -> None:
        """Schedule all faults; their times count from `origin`."""
        for name, faults in self._faults.items():
            port = self.ports[name]
            assert isinstance(port, FaultyPort), "made for a port with faults"
            port.schedule(phases(faults, rate=port.rate, origin=origin, chance=self._chance))

    def uplink(self, host: str) -> Port:
        """The port by which a host sends."""
        return self._uplinks[host]

    def way(self, src: str, dst: str, entropy: int) -> list[Port]:
        """The ports that packets of one path pass between two hosts; see `Routes.way`."""
        return [self.ports[name] for name in self._routes.way(src, dst, entropy)]

    def travelling(self) -> int:
        """Packets that are scheduled to arrive somewhere, counted one by one."""
        return sum(isinstance(event[3], Packet) for event in self._events.heap)


def _losses(topology: Topology) -> list[Fault]:
    return [
        Fault.impair(port, Faults(loss=cable.loss))
        for cable in topology.cables
        if cable.loss
        for port in cable.ports
    ]


def _uplinks(topology: Topology) -> dict[str, str]:
    hosts = set(topology.hosts)
    return {
        name: port
        for cable in topology.cables
        for name, port in zip((cable.a, cable.b), cable.ports, strict=True)
        if name in hosts
    }
