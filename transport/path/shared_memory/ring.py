"""A ring of sealed packets from one process to another, without locks.

Bytes are counted from 0 over the ring's whole life: `PRODUCED` by its writer, in
the writer's segment, and `CONSUMED` by its reader, in the reader's. A record
begins at a multiple of 8 with one word and never crosses the ring's end:

    bits 0-31   bytes of the packet
    bits 32-39  kind: a packet follows; a packet lies in a slot; nothing until the ring's end
    bits 40-63  the slot

Neither side believes the other. Each shared word is read once, into an integer
of Python's, and only that integer is checked and used. A packet is copied out
before anyone looks into it, so nothing can change behind a check. The worst that
a writer gone mad achieves is `CorruptError`, which ends the path.
"""

from __future__ import annotations

from mmap import mmap
from typing import Final

from .layout import CONSUMED, PAGE, PRODUCED
from .memory_order import order_of_its_own

PACKET: Final = 1
IN_SLOT: Final = 2
PADDING: Final = 3

_PACKET_BITS: Final = PACKET << 32
_IN_SLOT_BITS: Final = IN_SLOT << 32
_PADDING_WORD: Final = PADDING << 32
_SIZE_MASK: Final = (1 << 32) - 1


class CorruptError(Exception):
    """The other side's words or records cannot be true; its memory is not read any further."""


class RingWriter:
    """The producing end, in the writer's own memory; `peer_words` are the reader's.

    Thread rule: one thread at a time.
    """

    __slots__ = (
        "_capacity",
        "_consumed",
        "_heads",
        "_memory",
        "_order",
        "_peer_words",
        "_words",
        "produced",
        "record_limit",
    )

    def __init__(
        self, memory: mmap, capacity: int, record_limit: int, peer_words: memoryview
    ) -> None:
        view = memoryview(memory)
        self._memory = memory
        self._capacity = capacity
        self._words = view[:PAGE].cast("Q")
        self._heads = view[PAGE : PAGE + capacity].cast("Q")
        self._peer_words = peer_words
        self._order = order_of_its_own()
        self._consumed = 0  # as last read; the reader may be further
        self.produced = 0
        """Bytes put into the ring, ever."""
        self.record_limit = record_limit
        """The largest packet it takes."""

    def put(self, packet: bytes | bytearray | memoryview) -> bool:
        """Copy a packet into the ring; False where there is no room for it now.

        Raises:
            CorruptError: the reader's count cannot be true.
        """
        size = len(packet)
        if not 0 < size <= self.record_limit:
            return False
        need = (size + 15) & ~7
        offset = self._room_for(need)
        if offset < 0:
            return False
        self._heads[offset >> 3] = size | _PACKET_BITS
        start = PAGE + 8 + offset
        self._memory[start : start + size] = packet
        if self._order is not None:
            self._order()  # the record before the count that reveals it
        self.produced += need
        self._words[PRODUCED] = self.produced
        return True

    def put_slot(self, slot: int, size: int) -> bool:
        """Tell of a packet of `size` bytes in a slot; False where there is no room for that now.

        Raises:
            CorruptError: the reader's count cannot be true.
        """
        offset = self._room_for(8)
        if offset < 0:
            return False
        self._heads[offset >> 3] = size | _IN_SLOT_BITS | slot << 40
        if self._order is not None:
            self._order()  # the slot and the record before the count
        self.produced += 8
        self._words[PRODUCED] = self.produced
        return True

    def _room_for(self, need: int) -> int:
        """Where a record of `need` bytes goes, padding put before it; -1 where there is no room."""
        capacity, produced = self._capacity, self.produced
        offset = produced & capacity - 1
        left = capacity - offset
        wanted = need if need <= left else left + need
        if produced + wanted - self._consumed > capacity:
            self._refresh()
            if produced + wanted - self._consumed > capacity:
                return -1
        if need > left:
            self._heads[offset >> 3] = _PADDING_WORD
            self.produced = produced + left
            return 0
        return offset

    def _refresh(self) -> None:
        consumed: int = self._peer_words[CONSUMED]
        if not self._consumed <= consumed <= self.produced:
            raise CorruptError(
                f"the reader has taken {consumed} bytes of {self.produced}, "
                f"and before that {self._consumed}"
            )
        self._consumed = consumed


class RingReader:
    """The consuming end, in the writer's memory; `words` are of the reader's own segment.

    Thread rule: one thread at a time.
    """

    __slots__ = (
        "_capacity",
        "_consumed",
        "_heads",
        "_memory",
        "_order",
        "_peer_words",
        "_published",
        "_record_limit",
        "_words",
        "seen",
    )

    def __init__(self, memory: mmap, capacity: int, record_limit: int, words: memoryview) -> None:
        view = memoryview(memory)
        self._memory = memory
        self._capacity = capacity
        self._record_limit = record_limit
        self._peer_words = view[:PAGE].cast("Q")
        self._heads = view[PAGE : PAGE + capacity].cast("Q")
        self._words = words
        self._order = order_of_its_own()
        self._consumed = 0
        self._published = 0
        self.seen = 0
        """The writer's count as last read."""

    def waiting(self) -> bool:
        """Whether there is something to take."""
        return bool(self._consumed != self.seen or self._peer_words[PRODUCED] != self.seen)

    def take(self) -> bytes | tuple[int, int] | None:
        """The next packet; or slot and size of one that lies in a slot; or None.

        Raises:
            CorruptError: the writer's count or record cannot be true.
        """
        consumed = self._consumed
        if consumed == self.seen and not self._look():
            return None
        capacity = self._capacity
        offset = consumed & capacity - 1
        head: int = self._heads[offset >> 3]
        if head == _PADDING_WORD and consumed + capacity - offset < self.seen:
            # Told of together with the record behind it, which is at the ring's start.
            consumed += capacity - offset
            offset = 0
            head = self._heads[0]
        size = head & _SIZE_MASK
        kind = head >> 32 & 0xFF
        if kind == PACKET:
            after = consumed + ((size + 15) & ~7)
            start = offset + 8
            if 0 < size <= self._record_limit and after <= self.seen and start + size <= capacity:
                # A slice of a mapping is a copy of its bytes.
                packet = self._memory[PAGE + start : PAGE + start + size]
                self._release(after)
                return packet
        elif kind == IN_SLOT:
            self._release(consumed + 8)
            return head >> 40, size
        raise CorruptError(
            f"record {head:#x} at {consumed} of {self.seen} in a ring of {capacity} bytes"
        )

    def _look(self) -> bool:
        """Read the writer's count; the reader's own is told while there is nothing to do."""
        produced: int = self._peer_words[PRODUCED]
        if produced == self.seen:
            if self._published != self._consumed:
                self._publish()
            return False
        if not 8 <= produced - self.seen <= self._capacity or produced & 7:
            raise CorruptError(
                f"the writer has put {produced} bytes after {self.seen} "
                f"into a ring of {self._capacity}"
            )
        self.seen = produced
        if self._order is not None:
            self._order()  # the count before the records that it reveals
        return True

    def _release(self, consumed: int) -> None:
        self._consumed = consumed
        if consumed - self._published > self._capacity >> 2:
            self._publish()

    def _publish(self) -> None:
        if self._order is not None:
            self._order()  # the copies before the count that lets them be overwritten
        self._published = self._consumed
        self._words[CONSUMED] = self._consumed
