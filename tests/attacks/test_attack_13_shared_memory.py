"""Attack 13: the same attacks on the memory that two processes share.

Only the process that made a segment can write it, and it has the link's keys. Here it goes
mad, or is made to: whatever it writes, nothing passes for a packet that was not sealed, and
the messages come over the network instead, each once, whole and in order.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

import numpy as np
import pytest

from support.nodes import PATIENCE, linked, together, until
from support.shared_memory import (
    Restless,
    Send,
    Tamperer,
    gave_up_memory,
    uses_memory,
    wait_for_memory,
)
from transport import Config, Node
from transport.path.base import Buffer
from transport.path.shared_memory.layout import CONSUMED, PAGE, PRODUCED
from transport.path.shared_memory.ring import IN_SLOT, PACKET, PADDING
from transport.path.shared_memory.segment import Segment
from transport.wire.packet import FIRST_BULK

KIB, MIB = 1024, 1024 * 1024
SIZES = (0, 1, 64, 5000, 3 * MIB + 7, 64, 30 * KIB, 300 * KIB, 2 * MIB, 100)
SMALL_SLOTS = Config(
    packet_payload=256 * KIB, window_bytes=4 * MIB, shared_slots=2, heartbeat_interval=0.2
)

Act = Callable[[Segment, Buffer, Send], bool]


def contents(seed: int) -> list[bytes]:
    random = np.random.default_rng(seed)
    return [random.bytes(size) for size in SIZES]


def exchange(a: Node, b: Node) -> None:
    """Messages of every kind both ways at once, each of which arrives once, whole, in order."""

    def send(one: Node, to: Node, seed: int) -> None:
        works = [one.isend(np.frombuffer(each, np.uint8), to=to.name) for each in contents(seed)]
        for work in works:
            work.wait(PATIENCE)

    def receive(one: Node, source: Node, seed: int) -> None:
        for each in contents(seed):
            received = one.recv(source=source.name, timeout=PATIENCE)
            assert sha256(received.tobytes()).digest() == sha256(each).digest()

    together(
        lambda: send(a, b, 1),
        lambda: receive(b, a, 1),
        lambda: send(b, a, 2),
        lambda: receive(a, b, 2),
    )
    assert a.probe(tag=None) is None
    assert b.probe(tag=None) is None


@pytest.fixture(params=["of the caller", "of the answerer"])
def tamperer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Tamperer:
    """Tampers with the segment of the side named; whichever made it, the other one reads it."""
    return Tamperer(monkeypatch, ["of the answerer", "of the caller"].index(request.param))


def attacked(tamperer: Tamperer, act: Act, *, survives: bool = False) -> dict[str, int]:
    """Exchange messages under attack; return the drops of both sides."""
    with linked(config=SMALL_SLOTS) as (a, b):
        wait_for_memory(a, b)
        tamperer.act = act
        exchange(a, b)
        if survives:
            assert uses_memory(a, b)
        else:
            until(lambda: gave_up_memory(a, b))
            tamperer.act = None
            exchange(a, b)
        drops = a.link("b").stats().drops | b.link("a").stats().drops
        assert a.link("b").stats().state == b.link("a").stats().state == "open"
    return dict(drops)


def once(act: Act) -> Act:
    """Do it to the fifth packet, for some have to be under way."""
    count = 0

    def acting(segment: Segment, packet: Buffer, send: Send) -> bool:
        nonlocal count
        count += 1
        return act(segment, packet, send) if count == 5 else send(packet)

    return acting


def flipped(packet: Buffer, at: int, bit: int) -> bytes:
    copy = bytearray(packet)
    copy[at] ^= 1 << bit
    return bytes(copy)


# --- attacks on the ring ----------------------------------------------------------------------

# Version and kind, generation, epoch, receiver, number, ciphertext, tag.
PLACES = [(0, 0), (0, 5), (1, 0), (5, 3), (8, 1), (15, 7), (-1, 0)]


@pytest.mark.parametrize(("at", "bit"), PLACES)
def test_flip_a_bit_in_the_ring(tamperer: Tamperer, at: int, bit: int) -> None:
    def flip(segment: Segment, packet: Buffer, send: Send) -> bool:
        if len(packet) > SMALL_SLOTS.eager_limit:
            packet = bytes(100)  # no packet of the ring: something else instead of it
        return send(flipped(packet, at, bit))

    assert sum(attacked(tamperer, once(flip)).values()) >= 1


def test_replay_what_was_in_the_ring(tamperer: Tamperer) -> None:
    recorded: list[bytes] = []

    def replay(segment: Segment, packet: Buffer, send: Send) -> bool:
        if len(packet) <= 4096:
            recorded.append(bytes(packet))
        return send(packet) and (len(recorded) < 6 or send(recorded[2]))

    assert attacked(tamperer, replay)["replay"] >= 1


def test_reorder_what_is_in_the_ring(tamperer: Tamperer) -> None:
    """Packets may arrive in any order: nothing is lost, and the memory serves on."""
    kept: list[bytes] = []

    def swap(segment: Segment, packet: Buffer, send: Send) -> bool:
        if not kept and len(packet) <= 4096:
            kept.append(bytes(packet))
            return True
        return deliver(segment, packet, send)

    def deliver(segment: Segment, packet: Buffer, send: Send) -> bool:
        return send(packet) and all(send(kept.pop()) for _ in kept[:])

    with linked(config=SMALL_SLOTS) as (a, b):
        wait_for_memory(a, b)
        tamperer.act = swap
        for number in range(200):
            if number == 199:
                tamperer.act = deliver
            a.send(np.array([number]), to="b", tag=1, timeout=PATIENCE)
            b.send(np.array([number]), to="a", tag=1, timeout=PATIENCE)
        for number in range(200):
            assert b.recv(source="a", tag=1, timeout=PATIENCE) == [number]
            assert a.recv(source="b", tag=1, timeout=PATIENCE) == [number]
        assert uses_memory(a, b)


def head(segment: Segment) -> int:
    """Index of the word where the next record of a segment begins."""
    return (PAGE + (segment.words[PRODUCED] & segment.layout.ring - 1)) // 8


ABSURD = {
    "nothing": (0, 8),
    "no such kind": (100 | 9 << 32, 112),
    "a packet of 4 GiB": (2**32 - 1 | PACKET << 32, 2**32 + 8),
    "more than a record may have": (600_000 | PACKET << 32, 600_008),
    "no such slot": (100 | IN_SLOT << 32 | (2**24 - 1) << 40, 8),
    "more than a slot has": (2**32 - 1 | IN_SLOT << 32, 8),
    "padding without end": (0 | PADDING << 32, 8),
    "less than a word": (100 | PACKET << 32, 4),
    "one round more than there is": (100 | PACKET << 32, 1 << 40),
    "back": (100 | PACKET << 32, -8),
}


@pytest.mark.parametrize("record", ABSURD)
def test_absurd_records_and_stale_counts(tamperer: Tamperer, record: str) -> None:
    """What its owner sends afterwards would write over it, so nothing comes any more."""
    word, advance = ABSURD[record]
    count = 0

    def forge(segment: Segment, packet: Buffer, send: Send) -> bool:
        nonlocal count
        count += 1
        if count < 5:
            return send(packet)
        if count == 5:
            send(packet)
            segment.memory.cast("Q")[head(segment)] = word
            segment.words[PRODUCED] = segment.words[PRODUCED] + advance & 2**64 - 1
        return True

    attacked(tamperer, forge)


@pytest.mark.parametrize("lie", [1 << 50, 8, 2**64 - 8])
def test_a_count_of_what_was_taken_that_cannot_be(tamperer: Tamperer, lie: int) -> None:
    """It is read when the ring seems full, so much is sent to the one who lies."""

    def told(segment: Segment, packet: Buffer, send: Send) -> bool:
        tamperer.segments[1 - tamperer.number].words[CONSUMED] = lie
        return send(packet)

    with linked(config=SMALL_SLOTS) as (a, b):
        wait_for_memory(a, b)
        tamperer.act = told
        for number in range(1000):
            content = bytes([number % 256]) * 4096
            a.send(content, to="b", timeout=PATIENCE)
            b.send(b.recv(source="a", timeout=PATIENCE), to="a", timeout=PATIENCE)
            assert a.recv(source="b", timeout=PATIENCE).tobytes() == content
        until(lambda: gave_up_memory(a, b))


# --- attacks on the slots ---------------------------------------------------------------------


def in_slot(packet: Buffer) -> bool:
    """A piece of a large message: nothing of it but its sealed bytes."""
    return isinstance(packet, memoryview) and len(packet) > 200_000 and packet[0] == FIRST_BULK


@pytest.mark.parametrize(("at", "bit"), [(0, 5), (5, 3), (8, 1), (16, 0), (24, 2), (100_000, 4)])
def test_flip_a_bit_in_a_slot(tamperer: Tamperer, at: int, bit: int) -> None:
    """It is turned back when the other side has noticed: what is repeated lies there too."""
    changed: list[memoryview] = []

    def flip(segment: Segment, packet: Buffer, send: Send) -> bool:
        if not changed and in_slot(packet):
            assert isinstance(packet, memoryview)
            packet[at] ^= 1 << bit
            changed.append(packet)
        return send(packet)

    with linked(config=SMALL_SLOTS) as (a, b):
        wait_for_memory(a, b)
        tamperer.act = flip

        def turn_back() -> None:
            until(lambda: bool(changed) and gave_up_memory(a, b))
            changed[0][at] ^= 1 << bit

        together(lambda: exchange(a, b), turn_back)
        assert sum((a.link("b").stats().drops | b.link("a").stats().drops).values()) >= 1


def test_tell_of_a_slot_whose_packet_was_opened_already(tamperer: Tamperer) -> None:
    def stale(segment: Segment, packet: Buffer, send: Send) -> bool:
        return send(packet) and (not in_slot(packet) or send(packet))

    assert attacked(tamperer, stale)["replay"] >= 1


def test_change_a_slot_while_it_is_opened(tamperer: Tamperer) -> None:
    """Between check and use, and to and fro: what opens is what was sealed."""
    with linked(config=SMALL_SLOTS) as (a, b):
        wait_for_memory(a, b)
        segment = tamperer.segments[0]
        first = segment.slot_offset(0)
        headers = segment.memory[first : first + 40]

        def change() -> None:
            if not uses_memory(a, b):
                return  # from where it lies now, it is repeated over the network
            for at in range(len(headers)):
                headers[at] ^= 0xFF
                headers[at] ^= 0xFF

        with Restless(change):
            for _ in range(3):
                exchange(a, b)


# --- what a reader sees -----------------------------------------------------------------------


def test_a_reader_of_the_memory_sees_only_ciphertext(tamperer: Tamperer) -> None:
    secret = b"attack at dawn! "
    with linked(config=SMALL_SLOTS) as (a, b):
        wait_for_memory(a, b)
        seen: list[bytes] = []

        def look(segment: Segment, packet: Buffer, send: Send) -> bool:
            sent = send(packet)
            seen.append(bytes(packet))
            return sent

        tamperer.act = look
        for size in (1, 100, 60_000):
            for one, other in ((a, b), (b, a)):
                work = one.isend(np.frombuffer(secret * size, np.uint8), to=other.name)
                received = other.recv(source=one.name, timeout=PATIENCE)
                assert received.tobytes() == secret * size, "else the search proves nothing"
                work.wait(PATIENCE)
        assert len(tamperer.segments) == 2
        whole = [bytes(segment.memory) for segment in tamperer.segments]
        assert sum(map(len, seen)) > 60_000 * 16
        assert any(packet[-100:] in memory for packet in seen for memory in whole), "it was there"
        for memory in (*whole, *seen):
            assert secret not in memory
