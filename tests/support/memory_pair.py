"""A `Pair` whose sides also share memory: real rings and slots, in virtual time.

    pair = MemoryPair(paths=2)
    pair.client.send(b"...")              # crosses the ring
    pair.ends["server"].reading = False   # the other process does not run
    pair.fail("client")                   # ... and now both go on without

Segments are plain memory here, for one process needs no file; all else of them is what
nodes use. The owner's part, which an engine has there, is small: it hands packets over,
looks at the ring `LOOK` after something was put there, and ends what has failed. The other
side notices that after as long, having read whatever was in the ring by then.
"""

from __future__ import annotations

import heapq
import mmap
import random
from collections.abc import Callable
from typing import Any

from transport.config import KIB, Config
from transport.link import Transmit
from transport.node.neighbour import layout_for
from transport.path.base import Buffer
from transport.path.shared_memory.layout import Layout
from transport.path.shared_memory.ring import CorruptError, RingReader, RingWriter
from transport.path.shared_memory.segment import Segment
from transport.path.shared_memory.slots import PeerSlots, SlotBank

from .pair import Pair
from .side import Side, Wire

SIDES = ("client", "server")
PIECE = 8 * KIB
SLOTS = 3
SMALL = Config(
    packet_payload=PIECE,
    eager_limit=2 * KIB,
    window_bytes=64 * KIB,
    unexpected_bytes=1024 * KIB,
    shared_payload=PIECE,
    shared_slots=SLOTS,
)
LARGE = 20 * PIECE + 5  # bytes of a message of many pieces
LOOK = 20e-6  # seconds until the other process sees what was put into the ring
_GONE = b"gone"


def content(size: int, seed: int = 0) -> bytes:
    """Bytes that depend on both arguments."""
    return random.Random(seed).randbytes(size)


class End(Wire):
    """One side's end: a handle to its link, both rings and both sets of slots to `MemoryPair`."""

    def __init__(self, side: str, layout: Layout) -> None:
        super().__init__(side, -1)
        self.segment = Segment(mmap.mmap(-1, layout.size), layout, -1, 0)
        self.slots = SlotBank(self.segment)
        self.fault: str | None = None
        self.reading = True
        """Whether this side's process looks at the ring."""
        self.alter: Callable[[Buffer], Buffer] | None = None
        """What this side takes for the packet that it has found."""
        self.packets: list[Buffer] = []
        """All that were read, as they were then."""
        self.unread = 0  # looks that are to be made up for
        self.gone = False  # the other side has let go

    def attach(self, peer: End) -> None:
        """Map the other end's segment."""
        layout, words, theirs = peer.segment.layout, self.segment.words, peer.segment.words
        self.writer = RingWriter(self.segment.mapped, layout.ring, layout.record_limit, theirs)
        self.reader = RingReader(peer.segment.mapped, layout.ring, layout.record_limit, words)
        self.peer_slots = PeerSlots(peer.segment)

    def put(self, packet: Buffer) -> bool:
        """Hand over a packet, in its slot or through the ring; False where there is no room."""
        if isinstance(packet, memoryview) and (slot := self.slots.index_of(packet)) is not None:
            return self.writer.put_slot(slot, len(packet))
        return self.writer.put(packet)

    def take(self) -> Buffer | None:
        """The next packet, where it lies."""
        found = self.reader.take()
        packet = self.peer_slots.packet(*found) if isinstance(found, tuple) else found
        if packet is not None:
            self.packets.append(bytes(packet))
            if self.alter is not None:
                packet = self.alter(packet)
        return packet

    def free_slots(self) -> int:
        """How many slots are not in use."""
        taken = []
        while (slot := self.slots.take()) is not None:
            taken.append(slot)
        for slot in reversed(taken):
            self.slots.give_back(slot)
        return len(taken)


class MemoryPair(Pair):
    """Both links have their path through memory from the start, unless `join` is False."""

    def __init__(self, *, join: bool = True, **given: Any) -> None:
        self.ends: dict[str, End] = {}
        super().__init__(**given)
        layout = layout_for(self.client.config)
        self.ends = {side.name: End(side.name, layout) for side in self.sides}
        for side in self.sides:
            self.ends[side.name].attach(self.ends[self.other(side.name).name])
            side.end_memory = lambda cause, side=side: self._end(side, cause)  # type: ignore[misc]
        if join:
            self.offer()
            self.join()

    # --- as nodes agree on it --------------------------------------------------------

    def offer(self) -> None:
        """The one who answered has mapped both, and waits for the caller to join."""
        end = self.ends["server"]
        self.server.link.add_local_path(end, end.slots, "memory", self.now)

    def challenge(self) -> None:
        """The caller begins to join."""
        end = self.ends["client"]
        self.client.link.add_local_path(end, end.slots, "memory", self.now)

    def join(self) -> None:
        """Run until both sides use it."""
        self.challenge()
        self.advance(until=lambda: self.joined)

    @property
    def joined(self) -> bool:
        """Whether both sides use it."""
        return all(
            any(path.handle is self.ends[side.name] and path.usable for path in side.link.paths)
            for side in self.sides
        )

    def in_flight_there(self) -> list[int]:
        """Packets that each link takes to be on their way through memory, where it has a path."""
        ends = list(self.ends.values())
        paths = [path for side in self.sides for path in side.link.paths if path.handle in ends]
        return [len(path.in_flight) for path in paths]

    def heartbeats_only(self) -> bool:
        """Whether nothing that was tapped on the network can be more than a sign of life."""
        return all(len(packet) < 100 for _, _, packet in self.tap)

    # --- as engines use it -----------------------------------------------------------

    def _send(self, side: Side, transmit: Transmit) -> None:
        end = transmit.handle
        if not isinstance(end, End):
            super()._send(side, transmit)
            return
        if end.fault is not None:
            return
        try:
            put = end.put(transmit.data)
        except CorruptError as error:
            self.fail(side.name, str(error))
            return
        if put:
            self._look_later(self.ends[self.other(side.name).name], b"")
        else:
            self.fail(side.name, "the ring is full")

    def _look_later(self, end: End, what: bytes) -> None:
        self._serial += 1
        heapq.heappush(self._queue, (self.now + LOOK, self._serial, end.side, end, what))

    def _deliver(self, to: str, wire: Wire, packet: bytes) -> None:
        if not isinstance(wire, End):
            super()._deliver(to, wire, packet)
        elif packet == _GONE:
            wire.gone = True
        else:
            wire.unread += 1
        if isinstance(wire, End) and wire.reading:
            self._read(wire)

    def _read(self, end: End) -> None:
        side = self.client if end.side == "client" else self.server
        while end.fault is None and end.unread:
            end.unread -= 1
            try:
                packet = end.take()
            except CorruptError as error:
                self.fail(end.side, str(error))
                return
            if packet is None:
                continue
            side.link.receive_packet(end, packet, self.now)
            side.take_events(side.link)
        if end.gone:
            self.fail(end.side, "the peer's process has gone")

    def freeze(self, name: str) -> None:
        """This side's process does not look at the ring any more."""
        self.ends[name].reading = False

    def thaw(self, name: str) -> None:
        """It looks again, and finds all that has come meanwhile."""
        end = self.ends[name]
        end.reading = True
        self._read(end)
        self.flush()

    # --- misfortune ------------------------------------------------------------------

    def fail(self, name: str, reason: str = "given up") -> None:
        """This side lets go of the memory; the other one will notice."""
        end, side = self.ends[name], self.client if name == "client" else self.server
        if end.fault is not None:
            return
        end.fault = reason
        side.link.path_down(end, reason, self.now)
        end.slots.close()
        self._look_later(self.ends[self.other(name).name], _GONE)

    def _end(self, side: Side, cause: str) -> None:
        side.memory_failures.append(cause)
        self.fail(side.name, f"dropped: {cause}")
