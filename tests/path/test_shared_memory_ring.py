"""The ring against a model, and against a writer and a reader that lie."""

from __future__ import annotations

import mmap
from collections import deque
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.path.shared_memory import memory_order
from transport.path.shared_memory.layout import CONSUMED, PAGE, PRODUCED
from transport.path.shared_memory.ring import (
    IN_SLOT,
    PACKET,
    PADDING,
    CorruptError,
    RingReader,
    RingWriter,
)

CAPACITY = 256
LIMIT = 56
U64 = st.integers(0, (1 << 64) - 1)


class Memory:
    """A ring and both sides' words, with a writer and a reader on them."""

    def __init__(self, capacity: int = CAPACITY, limit: int = LIMIT) -> None:
        segment = mmap.mmap(-1, PAGE + capacity)
        self.ring = memoryview(segment)[PAGE:]
        self.heads = self.ring.cast("Q")
        self.writers = memoryview(segment)[:PAGE].cast("Q")
        self.readers = memoryview(bytearray(PAGE)).cast("Q")
        self.writer = RingWriter(segment, capacity, limit, self.readers)
        self.reader = RingReader(segment, capacity, limit, self.readers)

    def forge(self, produced: int, *heads: int) -> None:
        """Records that no honest writer makes, one word after another from the start."""
        for index, head in enumerate(heads):
            self.heads[index] = head
        self.writers[PRODUCED] = produced


PUT = st.tuples(st.just("put"), st.integers(1, LIMIT))
SLOT = st.tuples(st.just("slot"), st.integers(0, 63))
TAKE = st.tuples(st.just("take"), st.integers(1, 8))


@given(st.lists(st.one_of(PUT, SLOT, TAKE), max_size=200))
def test_what_goes_in_comes_out_in_order_and_unchanged(steps):
    memory, model, serial = Memory(), deque(), 0
    for step, number in steps:
        if step == "put":
            serial += 1
            packet = bytes([serial & 0xFF]) * number
            if memory.writer.put(packet):
                model.append(packet)
        elif step == "slot":
            if memory.writer.put_slot(number, number + 1):
                model.append((number, number + 1))
        else:
            for _ in range(number):
                taken = memory.reader.take()
                assert taken == (model.popleft() if model else None)
        assert memory.reader.waiting() is bool(model)
    while model:
        assert memory.reader.take() == model.popleft()
    assert memory.reader.take() is None


@given(st.lists(st.integers(1, LIMIT), max_size=60))
def test_an_empty_ring_takes_any_packet(sizes):
    memory = Memory()
    for size in sizes:
        assert memory.writer.put(bytes(size))
        assert memory.reader.take() == bytes(size)
        assert memory.reader.take() is None


def test_a_full_ring_refuses_and_goes_on_once_there_is_room():
    memory = Memory()
    count = 0
    while memory.writer.put(bytes([count]) * 24):
        count += 1
    assert count == CAPACITY // 32
    assert not memory.writer.put_slot(0, 1)
    taken = [memory.reader.take() for _ in range(count)]
    assert taken == [bytes([number]) * 24 for number in range(count)]
    assert memory.reader.take() is None
    assert memory.writer.put(b"again")
    assert memory.reader.take() == b"again"


def test_the_reader_tells_before_the_ring_is_empty():
    """A writer that never lets the ring run dry must learn of room all the same."""
    memory = Memory()
    held = 0
    for number in range(1000):
        if memory.writer.put(number.to_bytes(8, "little")):
            held += 1
        if held > 4:
            memory.reader.take()
            held -= 1
    assert memory.writer.produced > 10 * CAPACITY


@pytest.mark.parametrize("size", [0, LIMIT + 1, CAPACITY, 1 << 20])
def test_a_packet_of_no_size_or_too_large_is_not_taken(size):
    memory = Memory()
    assert not memory.writer.put(bytes(size))
    assert memory.reader.take() is None


def test_a_taken_packet_is_a_copy():
    memory = Memory()
    memory.writer.put(b"as it was sent")
    packet = memory.reader.take()
    memory.ring[:] = bytes(CAPACITY)
    assert packet == b"as it was sent"


# --- a writer that lies -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("produced", "heads"),
    [
        (8, (PACKET << 32 | 0,)),
        (16, (PACKET << 32 | 9,)),
        (CAPACITY, (PACKET << 32 | LIMIT + 1,)),
        (CAPACITY, (PACKET << 32 | 0xFFFFFFFF,)),
        (CAPACITY, (PACKET << 32 | 0xFFFFFFF8,)),
        (CAPACITY, (0,)),
        (CAPACITY, ((1 << 64) - 1,)),
        (CAPACITY, (7 << 32 | 8,)),
        (CAPACITY, (PACKET << 32 | 1 << 40 | 0,)),
        (CAPACITY, (PADDING << 32,)),
        (8, (PADDING << 32,)),
        (CAPACITY, (PADDING << 32 | 5,)),
        (CAPACITY + 8, (PACKET << 32 | 8,)),
        (1 << 63, (PACKET << 32 | 8,)),
        ((1 << 64) - 8, (PACKET << 32 | 8,)),
        (7, (PACKET << 32 | 8,)),
        (17, (PACKET << 32 | 8,)),
    ],
    ids=str,
)
def test_absurd_counts_and_records_end_the_reading(produced, heads):
    memory = Memory()
    memory.forge(produced, *heads)
    with pytest.raises(CorruptError):
        memory.reader.take()


def test_a_count_that_goes_back_ends_the_reading():
    memory = Memory()
    memory.writer.put(b"one")
    memory.writer.put(b"two")
    assert [memory.reader.take(), memory.reader.take()] == [b"one", b"two"]
    memory.writers[PRODUCED] = 16
    assert memory.reader.waiting()
    with pytest.raises(CorruptError, match="16 bytes after 32"):
        memory.reader.take()


def test_padding_twice_in_a_row_ends_the_reading():
    memory = Memory()
    memory.forge(8, IN_SLOT << 32 | 1)
    assert memory.reader.take() == (0, 1)
    memory.heads[1] = memory.heads[0] = PADDING << 32
    memory.writers[PRODUCED] = CAPACITY + 8
    with pytest.raises(CorruptError):
        memory.reader.take()


def test_a_slot_of_any_number_and_size_is_only_handed_on():
    memory = Memory()
    memory.forge(8, (1 << 64) - 1 & ~(0xFF << 32) | IN_SLOT << 32)
    assert memory.reader.take() == ((1 << 24) - 1, (1 << 32) - 1)


@given(
    st.binary(min_size=CAPACITY, max_size=CAPACITY),
    st.lists(
        st.tuples(st.integers(0, CAPACITY // 8 - 1), U64, st.integers(-2, CAPACITY // 8 + 2)),
        max_size=30,
    ),
)
def test_whatever_lies_in_the_memory_reading_stays_in_bounds(content, changes):
    """Also where it changes between any two steps of the reader."""
    memory = Memory()
    memory.ring[:] = content
    produced = 0
    with suppress(CorruptError):
        for index, word, forward in changes:
            memory.heads[index] = word
            produced = (produced + 8 * forward) % (1 << 64)
            memory.writers[PRODUCED] = produced
            for _ in range(CAPACITY // 8 + 1):
                taken = memory.reader.take()
                if taken is None:
                    break
                if isinstance(taken, bytes):
                    assert 0 < len(taken) <= LIMIT
                else:
                    assert 0 <= taken[0] < 1 << 24
            else:
                pytest.fail("more records than fit a ring")


# --- a reader that lies -----------------------------------------------------------------------


def fill(memory: Memory) -> None:
    while memory.writer.put(bytes(24)):
        pass


@pytest.mark.parametrize("consumed", [CAPACITY + 8, 1 << 63, (1 << 64) - 8])
def test_a_reader_ahead_of_the_writer_ends_the_writing(consumed):
    memory = Memory()
    fill(memory)
    memory.readers[CONSUMED] = consumed
    with pytest.raises(CorruptError):
        memory.writer.put(b"x")


def test_a_reader_that_goes_back_ends_the_writing():
    memory = Memory()
    fill(memory)
    memory.readers[CONSUMED] = 64
    fill(memory)
    memory.readers[CONSUMED] = 32
    with pytest.raises(CorruptError, match="before that 64"):
        memory.writer.put(b"x")


@given(st.lists(st.tuples(U64, st.integers(1, LIMIT)), max_size=60))
def test_whatever_the_reader_says_no_more_is_written_than_it_made_room_for(lies):
    memory = Memory()
    with suppress(CorruptError):
        for consumed, size in lies:
            memory.readers[CONSUMED] = consumed
            memory.writer.put(b"\xff" * size)
            memory.writer.put_slot(63, size)
    assert memory.writer.produced <= max([0, *(consumed for consumed, _ in lies)]) + CAPACITY


def test_on_a_processor_that_reorders_stores_every_publication_is_fenced(monkeypatch):
    """Here only that the fences stand where they must and block nothing; arm64 needs them."""
    monkeypatch.setattr(memory_order, "STORES_IN_ORDER", False)
    fence_of_its_own, fences = memory_order.fence_of_its_own, []

    def counted():
        fence = fence_of_its_own()

        def count():
            fences.append(memory.writers[PRODUCED])
            fence()

        return count

    monkeypatch.setattr(memory_order, "fence_of_its_own", counted)
    memory = Memory()
    memory.writer.put(b"packet")
    assert fences == [0], "before the count that reveals the record"
    assert memory.reader.take() == b"packet"
    assert fences == [0, 16], "after the count was read"
    assert memory.reader.take() is None
    assert fences == [0, 16, 16], "before the count that gives the room back"
    memory.writer.put_slot(1, 2)
    assert fences == [0, 16, 16, 16]
