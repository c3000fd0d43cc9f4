"""The memory of sealed bulk packets: a few slots, used again and again.

A small pool stays in cache, which is worth more than a deep one: 64 slots of
a megabyte ran a third slower than 8. A slot returns here only when its packet
was sent once and acknowledged; after a retransmission another copy may still
wait in a transport's queue and read the memory, so that slot is let go and
the garbage collector frees it when the last reader has finished.
"""

from __future__ import annotations


class SlotPool:
    """Slots of one size; at most `spare` are kept while unused."""

    __slots__ = ("_free", "_size", "_spare")

    def __init__(self, size: int, spare: int) -> None:
        self._size = size
        self._spare = spare
        self._free: list[memoryview] = []

    def take(self) -> memoryview:
        """A writable slot whose content is arbitrary."""
        return self._free.pop() if self._free else memoryview(bytearray(self._size))

    def give_back(self, slot: memoryview) -> None:
        """Return a slot that nothing reads any more."""
        if len(self._free) < self._spare:
            self._free.append(slot)
