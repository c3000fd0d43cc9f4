"""A port: an output queue, and the line behind it.

A packet waits until those before it have left, leaves at the line's rate, and
arrives whole (store and forward) after the line's delay. Everything is known
when it joins the queue, because the queue is served in order: so a hop is one
event. A packet takes its room in the buffer until its last bit has left; one
that finds too little room is dropped (drop-tail).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Sequence
from heapq import heappush
from typing import Final

from .events import NEVER, SECOND, Call, Events
from .faults import Phase

BUFFER: Final = "buffer"  # dropped: the queue was full
LOSS: Final = "loss"  # dropped: the line lost it
BLACKHOLE: Final = "blackhole"  # dropped: the line leads nowhere

_BITS: Final = 8 * SECOND


class Packet:
    """A sealed packet on its way; `way` are the calls that take it from hop to hop."""

    __slots__ = ("data", "hop", "number", "size", "way", "wire")

    def __init__(
        self, number: int, size: int, way: Sequence[Call], wire: object, data: bytes
    ) -> None:
        self.number = number
        self.size = size  # bytes on the line, headers of lower layers included
        self.way = way
        self.hop = 0
        self.wire = wire  # the path at the receiving end
        self.data = data


class Traffic:
    """Counts every packet of a network: none may come or go unseen."""

    __slots__ = ("delivered", "dropped", "duplicated", "sent")

    def __init__(self) -> None:
        self.sent = self.duplicated = self.delivered = self.dropped = 0

    @property
    def in_network(self) -> int:
        """Packets that are neither delivered nor dropped."""
        return self.sent + self.duplicated - self.delivered - self.dropped


class Port:
    """One direction of a cable. `rate` is in bits a second, `delay` in picoseconds."""

    __slots__ = (
        "_heap",
        "_held",
        "_queue",
        "_serials",
        "buffer",
        "busy",
        "bytes",
        "delay",
        "drops",
        "index",
        "name",
        "packets",
        "peak",
        "rate",
        "trace",
        "traffic",
    )

    def __init__(
        self,
        name: str,
        index: int,
        *,
        rate: int,
        delay: int,
        buffer: int,
        events: Events,
        traffic: Traffic,
    ) -> None:
        self.name = name
        self.index = index
        self.rate = rate
        self.delay = delay
        self.buffer = buffer
        self.busy = 0  # until then, something is leaving
        self.packets = self.bytes = 0  # that joined the queue
        self.peak = 0  # most bytes ever held
        self.drops: Counter[str] = Counter()
        self.trace = events.trace
        self.traffic = traffic
        self._heap = events.heap
        self._serials = events.serials
        self._queue: deque[tuple[int, int]] = deque()  # when each leaves, and its size
        self._held = 0

    def held(self, time: int) -> int:
        """Bytes in the buffer, those of the packet that is leaving included."""
        queue = self._queue
        while queue and queue[0][0] <= time:
            self._held -= queue.popleft()[1]
        return self._held

    def accept(self, time: int, packet: Packet) -> None:
        """Queue a packet for the line, or drop it."""
        queue = self._queue
        while queue and queue[0][0] <= time:
            self._held -= queue.popleft()[1]
        size = packet.size
        held = self._held + size
        if held > self.buffer:
            self.drop(time, packet, BUFFER)
            return
        self._held = held
        if held > self.peak:
            self.peak = held
        busy = self.busy
        self.busy = leaves = (busy if busy > time else time) - -size * _BITS // self.rate
        queue.append((leaves, size))
        self.packets += 1
        self.bytes += size
        packet.hop = hop = packet.hop + 1
        heappush(self._heap, (leaves + self.delay, next(self._serials), packet.way[hop], packet))

    def drop(self, time: int, packet: Packet, cause: str) -> None:
        """Count a packet that goes no further."""
        self.drops[cause] += 1
        self.traffic.dropped += 1
        self.trace.note(packet.number, -1 - self.index)


class FaultyPort(Port):
    """A port whose line changes at known times; it costs more than a sound one.

    What happens to a packet is decided by the phase in which its last bit leaves.
    A line that leads nowhere still takes its time, so nobody notices at the queue.
    """

    __slots__ = ("_phases", "_starts")

    def __init__(
        self,
        name: str,
        index: int,
        *,
        rate: int,
        delay: int,
        buffer: int,
        events: Events,
        traffic: Traffic,
    ) -> None:
        super().__init__(
            name, index, rate=rate, delay=delay, buffer=buffer, events=events, traffic=traffic
        )
        self._phases: list[Phase] = [Phase(rate=rate)]
        self._starts = [0]

    def schedule(self, phases: Sequence[tuple[int, Phase]]) -> None:
        """From each of these times on, ascending and in the future, the line is like that."""
        for start, phase in phases:
            self._starts.append(start)
            self._phases.append(phase)

    def accept(self, time: int, packet: Packet) -> None:
        """Queue a packet for the line as it will be then, or drop it."""
        if self.held(time) + packet.size > self.buffer:
            self.drop(time, packet, BUFFER)
            return
        self._held += packet.size
        self.peak = max(self.peak, self._held)
        self.busy = leaves = self._leaves(max(self.busy, time), packet.size)
        self._queue.append((leaves, packet.size))
        self.packets += 1
        self.bytes += packet.size
        self._send(leaves, packet)

    def _leaves(self, time: int, size: int) -> int:
        """When the last bit of a packet has left whose first leaves at `time`."""
        left = size * _BITS
        at = bisect_right(self._starts, time) - 1
        while True:
            rate = self._phases[at].rate
            ends = self._starts[at + 1] if at + 1 < len(self._starts) else NEVER
            finished = time - -left // rate
            if finished <= ends:
                return finished
            left -= (ends - time) * rate
            time, at = ends, at + 1

    def _send(self, leaves: int, packet: Packet) -> None:
        phase = self._phases[bisect_right(self._starts, leaves) - 1]
        packet.hop = hop = packet.hop + 1
        arrives = leaves + self.delay
        if phase.blackhole:
            self._schedule(leaves, self._blackholed, packet)
        elif phase.injector is None:
            self._schedule(arrives, packet.way[hop], packet)
        else:
            copies = phase.injector.apply(packet.data)
            if not copies:
                self._schedule(leaves, self._lost, packet)
            self.traffic.duplicated += max(len(copies) - 1, 0)
            for extra, data in copies:
                copy = Packet(packet.number, packet.size, packet.way, packet.wire, data)
                copy.hop = hop
                self._schedule(arrives + round(extra * SECOND), packet.way[hop], copy)

    def _schedule(self, time: int, call: Call, packet: Packet) -> None:
        heappush(self._heap, (time, next(self._serials), call, packet))

    def _blackholed(self, time: int, packet: Packet) -> None:
        self.drop(time, packet, BLACKHOLE)

    def _lost(self, time: int, packet: Packet) -> None:
        self.drop(time, packet, LOSS)
