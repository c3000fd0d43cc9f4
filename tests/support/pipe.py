"""A flight over an ideal network in virtual time: one bottleneck, paths with faults of their own.

    pipe = Pipe(rate=1e9, trip=0.001, packet=10_000, paths=4)
    pipe.run(trips=20)
    assert pipe.throughput(trips=5) > 0.9 * pipe.rate

Flight, recovery, scheduler and window are the ones that links use, with plain bytes in the
place of sealed packets. The sender always has something to send. Every packet waits for
the bottleneck that all paths share, then for its own path; each is acknowledged alone, a
round trip after it has left. `rate` is bytes a second.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

from transport.config import Config
from transport.link.bottleneck import BottleneckWindow
from transport.link.congestion import CongestionController
from transport.link.flight import Flight, Packet
from transport.link.paths import PathState
from transport.link.recovery import Recovery
from transport.link.scheduler import Spray
from transport.wire.packet import BULK_OVERHEAD

PROBE = 64  # bytes of a packet that only asks
SLOWNESS = 1e-3  # of a round trip: how long the ideal peer keeps an acknowledgement back


class Line:
    """One path's own part of the way."""

    def __init__(self) -> None:
        self.rate = float("inf")  # bytes a second, beside the shared bottleneck
        self.extra = 0.0  # seconds beside the round trip of all
        self.loss = 0.0  # probability
        self.free_at = 0.0


class Pipe:
    """A sender that is never idle, and the network below it."""

    def __init__(
        self,
        *,
        rate: float,
        trip: float,
        packet: int = 8192,
        paths: int = 1,
        seed: int = 1,
        window: CongestionController | None = None,
        most: int = 1 << 32,
    ) -> None:
        self.rate, self.trip, self.packet = rate, trip, packet
        self.config = Config(
            packet_payload=packet - BULK_OVERHEAD,
            window_bytes=most,
            window_packets=4096,
            acknowledge_after=SLOWNESS * trip,
            retransmit_min=SLOWNESS * trip,
        )
        self.now = 0.0
        self.lines = [Line() for _ in range(paths)]
        self.paths = [PathState(index, None, "", 0.0) for index in range(paths)]
        for path in self.paths:
            path.joined = True
        self.window = BottleneckWindow(self.config)
        self.controller = window or self.window
        self.scheduler = Spray(packet)
        self.flight = Flight(self.controller, self.scheduler)
        self.recovery = Recovery(self.config, self.flight, self.controller, self.scheduler)
        self.seed = seed
        self._random = random.Random(seed)
        self._content = {size: bytearray(size) for size in (packet, PROBE)}
        self._free_at = 0.0  # the shared bottleneck
        self._coming: list[tuple[float, int]] = []  # acknowledgements: when, and of what
        self._number = 0

    @property
    def product(self) -> float:
        """Bytes under way where the bottleneck is busy and no queue stands before it."""
        return self.rate * self.trip

    def _transmit(self, packet: Packet, path: PathState) -> None:
        self.flight.sent(packet, path, self.now)
        self.recovery.watch(path, self.now)
        line = self.lines[path.index]
        self._free_at = max(self._free_at, self.now) + packet.size / self.rate
        if self._random.random() < line.loss:
            return
        line.free_at = max(line.free_at, self._free_at) + packet.size / line.rate
        arrival = max(line.free_at, self._free_at) + self.trip + line.extra
        heapq.heappush(self._coming, (arrival, packet.number))

    def _next(self, size: int, *, reliable: bool) -> Packet:
        self._number += 1
        number = self._number
        return Packet(number, self._content[size], messages=(), reliable=reliable)

    def _fill(self) -> None:
        flight = self.flight
        while (packet := flight.next_lost()) is not None:
            under_way, count = flight.bytes - flight.waiting, len(flight) - len(flight.lost)
            if not self.controller.admits(packet.size, under_way, count):
                break
            path = self.scheduler.choose(self.paths, packet.size, self.now, avoid=packet.lost_by)
            assert path is not None, "every path of a pipe is usable"
            flight.lost.popleft()
            self._transmit(packet, path)
        size = self.packet
        while self.controller.admits(size, flight.bytes, len(flight)):
            path = self.scheduler.choose(self.paths, size, self.now)
            assert path is not None, "every path of a pipe is usable"
            self._transmit(self._next(size, reliable=True), path)

    def _expire(self) -> None:
        for path in self.recovery.expire(self.now):
            if self.recovery.only_hope(path, self.paths):
                self.recovery.repeat_oldest(path, self.now)
                continue
            other = min(each for each in (0, 1) if each != path.index)
            for each in (path, self.paths[other]):
                self._transmit(self._next(PROBE, reliable=False), each)

    def _due(self) -> float:
        self._fill()
        arrival = self._coming[0][0] if self._coming else float("inf")
        return min(arrival, max(self.recovery.due, self.now))

    def _step(self) -> None:
        """Go to the next thing that happens."""
        self.now = self._due()
        assert self.now < float("inf"), f"nothing will ever happen again (seed {self.seed})"
        if not self._coming or self._coming[0][0] > self.now:
            self._expire()
            return
        _, number = heapq.heappop(self._coming)
        settled = self.flight.acknowledge([(number, number)], self.now)
        self.recovery.on_acknowledged(settled, self.now)

    def run(self, *, trips: float) -> None:
        """Let so many round trips pass."""
        self.until(lambda: False, trips=trips)

    def until(self, reached: Callable[[], bool], *, trips: float) -> float:
        """Run until something holds, at most so many round trips; return how many it took."""
        start = self.now
        end = start + trips * self.trip
        while not reached():
            if self._due() > end:
                self.now = end
                break
            self._step()
        return (self.now - start) / self.trip

    def throughput(self, *, trips: float) -> float:
        """Run for so many round trips; bytes a second that were delivered meanwhile."""
        start, before = self.now, self.flight.delivered
        self.run(trips=trips)
        return (self.flight.delivered - before) / (self.now - start)
