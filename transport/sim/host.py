"""A simulated host: one network card, and the links that share it.

The card asks the links in turn for the next packet, each time its line is free.
So nothing queues where a link cannot see it, and several senders of one host
share its line evenly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..link import Transmit
from .events import Call, Events
from .port import Packet, Port, Traffic

if TYPE_CHECKING:
    from .endpoint import Endpoint, LinkEnd


class Wire:
    """One end of a path; `way` takes a packet to the other end, whose `Wire` is `twin`."""

    __slots__ = ("endpoint", "name", "twin", "way")

    def __init__(self, endpoint: Endpoint, name: str, way: Sequence[Call]) -> None:
        self.endpoint = endpoint
        self.name = name
        self.way = way
        self.twin: Wire = self

    def __repr__(self) -> str:
        return f"<Wire {self.name}>"


class Host:
    """A network card and the endpoints that share it."""

    def __init__(self, name: str, uplink: Port, events: Events, overhead: int) -> None:
        self.name = name
        self.uplink = uplink
        self.events = events
        self.overhead = overhead
        self.traffic: Traffic = uplink.traffic
        self._ready: deque[LinkEnd] = deque()  # may have something to send
        self._pumping = False  # now, or as soon as the line is free

    def deliver(self, time: int, packet: Packet) -> None:
        """A packet has come over the line, whole."""
        self.traffic.delivered += 1
        wire = packet.wire
        assert isinstance(wire, Wire), "only hosts make packets"
        wire.endpoint.receive(time, wire, packet.data)

    def stir(self, time: int, end: LinkEnd) -> None:
        """A link may have something to send: ask it as soon as the line is free."""
        if not end.queued:
            end.queued = True
            self._ready.append(end)
        if not self._pumping:
            self._pumping = True
            self._pump(time, None)

    def _pump(self, time: int, _: object) -> None:
        ready, uplink = self._ready, self.uplink
        while ready:
            if uplink.busy > time:
                self.events.at(uplink.busy, self._pump)
                return
            end = ready.popleft()
            transmit = end.poll(time)
            if transmit is None:
                end.queued = False
                end.take_events(time)
            else:
                ready.append(end)
                self._send(time, transmit)
            end.arm(time)
        self._pumping = False

    def _send(self, time: int, transmit: Transmit) -> None:
        wire = transmit.handle
        if not isinstance(wire, Wire):
            return  # a path that another has taken the place of
        data = bytes(transmit.data)
        traffic = self.traffic
        traffic.sent += 1
        packet = Packet(traffic.sent, len(data) + self.overhead, wire.way, wire.twin, data)
        self.events.trace.note(packet.number, packet.size)
        wire.way[0](time, packet)
