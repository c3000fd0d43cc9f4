"""Slots for pieces of large messages: sealed into here, opened from here.

A slot belongs to the writer's segment. It is taken for a packet, given back when
the link has seen the packet acknowledged under its keys, and reused. So a slot is
returned by an authentic acknowledgement and needs no word of shared memory, and
its packet can be repeated over another path for as long as it may be needed.
"""

from __future__ import annotations

import numpy as np

from .ring import CorruptError
from .segment import Segment


class SlotBank:
    """The writer's slots."""

    __slots__ = ("_free", "_index", "_slots", "window")

    def __init__(self, segment: Segment) -> None:
        layout = segment.layout
        # One exporter for each slot: a view of a view still names it, so a packet
        # tells which slot it lies in, if any.
        exporters = [
            np.frombuffer(segment.memory, np.uint8, layout.slot, segment.slot_offset(index))
            for index in range(layout.slots)
        ]
        self._index = {id(exporter): index for index, exporter in enumerate(exporters)}
        self._slots = [exporter.data for exporter in exporters]
        self._free = list(reversed(self._slots))
        self.window = layout.ring // 2
        """Bytes that may be in flight in the ring: the rest is for what nobody counts."""

    def take(self) -> memoryview | None:
        """A writable slot whose content is arbitrary; None where all are in use."""
        return self._free.pop() if self._free else None

    def give_back(self, slot: memoryview) -> None:
        """Return a slot whose packet is acknowledged."""
        if self._slots:
            self._free.append(slot)

    def close(self) -> None:
        """Let go of every slot; those in use go with the packets that lie in them."""
        self._slots.clear()
        self._free.clear()
        self._index.clear()

    def index_of(self, packet: memoryview) -> int | None:
        """The slot that `packet` was sealed into; None where it lies elsewhere."""
        return self._index.get(id(packet.obj))


class PeerSlots:
    """The other side's slots, for reading."""

    __slots__ = ("_size", "_slots")

    def __init__(self, segment: Segment) -> None:
        self._size = segment.layout.slot
        self._slots = [
            segment.memory[segment.slot_offset(index) :][: self._size]
            for index in range(segment.layout.slots)
        ]

    def packet(self, slot: int, size: int) -> memoryview:
        """The packet of `size` bytes in a slot, where it lies.

        Raises:
            CorruptError: there is no such slot, or it is smaller.
        """
        if slot >= len(self._slots) or not 0 < size <= self._size:
            raise CorruptError(f"{size} bytes in slot {slot} of {len(self._slots)}")
        return self._slots[slot][:size]
