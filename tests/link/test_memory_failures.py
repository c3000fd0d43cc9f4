"""Memory below a link fails: what was on its way comes once, over the network; nothing stays."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from support.memory_pair import LARGE, PIECE, SIDES, SLOTS, SMALL, MemoryPair, content
from transport.config import KIB
from transport.link import State
from transport.path.base import Buffer
from transport.wire.packet import (
    BULK_HEADER,
    FIRST_BULK,
    FIRST_FRAMES,
    FIRST_PAIR,
    FRAMES_HEADER,
    split_pair,
)


def numbers(packet: bytes) -> list[int]:
    """The packet numbers that a transport's packet brings."""
    if packet[0] == FIRST_PAIR:
        first, second = split_pair(memoryview(packet))
        return numbers(bytes(first)) + numbers(bytes(second))
    header = FRAMES_HEADER if packet[0] == FIRST_FRAMES else BULK_HEADER
    return [header.unpack_from(packet)[4]]


@pytest.mark.parametrize("frozen", [False, True], ids=["reading", "not reading"])
@pytest.mark.parametrize("loser", SIDES)
@pytest.mark.parametrize("after", [1, 2, 7, 20])
def test_all_of_a_message_comes_once_where_memory_fails_in_the_middle(
    after: int, loser: str, frozen: bool
) -> None:
    pair = MemoryPair(config=SMALL)
    pair.settle()
    read = pair.ends["server"].packets
    before = len(read)
    pair.client.send(content(LARGE))
    for number in range(5):
        pair.client.send(content(500, number))
        pair.server.send(content(PIECE, number))
    pair.advance(until=lambda: len(read) >= before + after)
    if frozen:
        for name in SIDES:
            pair.freeze(name)
        pair.run(0.5)
    pair.tapping = True
    pair.fail(loser)
    for name in SIDES:
        pair.thaw(name)
    pair.settle()
    assert pair.server.order == list(range(6))
    assert Counter(pair.server.payloads) == Counter(
        [content(LARGE), *(content(500, number) for number in range(5))]
    )
    assert pair.client.payloads == [content(PIECE, number) for number in range(5)]
    for side in pair.sides:
        assert pair.ends[side.name].fault is not None
        assert set(side.stats().drops) <= {"replay"}, "of what had arrived all the same"
    tapped = Counter((side, number) for side, _, packet in pair.tap for number in numbers(packet))
    assert set(tapped.values()) == {1}, "no packet crosses the network twice"
    assert pair.open is False, "the path is down for good"


def test_what_was_acknowledged_is_not_sent_again() -> None:
    pair = MemoryPair(config=SMALL)
    for number in range(20):
        pair.client.send(content(1000, number))
    pair.client.send(content(LARGE))
    pair.settle()
    pair.tapping = True
    pair.fail("client")
    pair.run(0.5)
    assert pair.heartbeats_only()
    assert pair.client.stats().retransmissions == 0


def test_what_had_arrived_when_it_failed_is_settled_without_a_repetition() -> None:
    """More was in flight than the network takes at once, and is acknowledged before its turn."""
    pair = MemoryPair(config=replace(SMALL, eager_limit=8 * KIB), latency=0.2)
    pair.settle()
    pair.freeze("client")
    sent = 0
    while pair.express(pair.client, content(8 * KIB, sent)):
        sent += 1
    pair.run(0.01)
    assert len(pair.server.payloads) == sent
    assert pair.client.in_flight >= sent > 10
    pair.fail("server")
    pair.ends["client"].unread = 0  # acknowledgements among it
    pair.thaw("client")
    pair.client.send(content(LARGE))  # its turn comes when nothing is left to repeat
    pair.settle()
    assert pair.server.order == list(range(sent + 1))
    assert 0 < pair.client.stats().retransmissions < sent
    assert pair.client.in_flight == 0


def flip_last(packet: Buffer) -> Buffer:
    changed = bytearray(packet)
    changed[-1] ^= 1
    return changed


HARMS = {
    "authentication": flip_last,
    "malformed": lambda packet: bytes(packet[:20]),
    "state": lambda packet: b"",
}


@pytest.mark.parametrize("victim", SIDES)
@pytest.mark.parametrize("size", [100, PIECE, LARGE], ids=["eager", "pair", "pieces"])
@pytest.mark.parametrize("cause", HARMS)
def test_a_packet_that_does_not_open_ends_the_path_and_comes_again(
    cause: str, size: int, victim: str
) -> None:
    pair = MemoryPair(config=SMALL)
    pair.settle()
    end, receiver = pair.ends[victim], pair.client if victim == "client" else pair.server
    end.packets.clear()

    def harm(packet: Buffer) -> Buffer:
        return HARMS[cause](packet) if len(end.packets) == 3 else packet

    end.alter = harm
    sender = pair.other(victim)
    for number in range(10):
        sender.send(content(size, number))
        pair.flush()  # else small ones share a packet
    pair.settle()
    assert receiver.memory_failures == [cause]
    assert end.fault == f"dropped: {cause}"
    assert pair.ends[sender.name].fault == "the peer's process has gone"
    assert receiver.order == list(range(10))
    assert receiver.payloads == [content(size, number) for number in range(10)]
    assert receiver.link.state is sender.link.state is State.OPEN


def test_a_packet_that_came_before_ends_the_path() -> None:
    pair = MemoryPair(config=SMALL)
    pair.settle()
    seen: list[bytes] = []

    def replay(packet: Buffer) -> Buffer:
        seen.append(bytes(packet))
        return seen[-2] if len(seen) == 3 else packet

    pair.ends["server"].alter = replay
    for number in range(5):
        assert pair.express(pair.client, content(100, number))
    pair.settle()
    assert pair.server.memory_failures == ["replay"]
    assert pair.server.payloads == [content(100, number) for number in range(5)]


def test_what_opens_and_is_of_no_use_does_not_end_the_path() -> None:
    """Pieces of a message that its receiver declines meanwhile."""
    pair = MemoryPair(config=SMALL)
    pair.client.post(content(LARGE))
    pair.advance(until=lambda: bool(pair.server.accepted))
    pair.freeze("server")
    pair.run(0.1)
    pair.server.link.decline(pair.server.accepted[0])
    pair.thaw("server")
    pair.client.send(content(100))
    pair.settle()
    assert pair.server.payloads == [content(100)]
    assert pair.server.stats().drops["discarded"] >= 1
    assert pair.server.memory_failures == []
    assert pair.ends["server"].fault is None
    assert pair.ends["client"].free_slots() == SLOTS


@pytest.mark.parametrize("harmed", ["announcement", "piece"])
def test_halves_of_a_pair_that_does_not_open_come_again_over_the_network(harmed: str) -> None:
    pair = MemoryPair(config=SMALL)
    pair.settle()
    end = pair.ends["server"]

    def harm(packet: Buffer) -> Buffer:
        if packet[0] != FIRST_PAIR:
            return packet
        changed = bytearray(packet)
        changed[60 if harmed == "announcement" else -1] ^= 1
        return changed

    end.alter = harm
    pair.tapping = True
    pair.client.send(content(PIECE))
    pair.settle()
    assert pair.server.payloads == [content(PIECE)]
    assert pair.server.memory_failures[0] == "authentication"
    repeated = [packet[0] for side, _, packet in pair.tap if side == "client" if len(packet) > 100]
    assert FIRST_BULK in repeated
    assert FIRST_PAIR not in repeated, "only the first time do they travel as one"


def test_after_it_failed_pairs_go_over_the_network() -> None:
    pair = MemoryPair(config=SMALL)
    pair.client.send(content(PIECE))
    pair.settle()
    assert FIRST_PAIR in {packet[0] for packet in pair.ends["server"].packets}
    pair.fail("server")
    pair.run(0.1)
    pair.tapping = True
    for number in range(5):
        pair.client.send(content(PIECE, number))
        pair.server.send(content(PIECE, number))
    pair.settle()
    for side in pair.sides:
        assert side.payloads[-5:] == [content(PIECE, number) for number in range(5)]
    assert sum(packet[0] == FIRST_PAIR for _, _, packet in pair.tap) == 10


def test_memory_is_not_tried_again_on_the_same_link() -> None:
    """Nor may the transport call it up: nothing ever comes back from there."""
    pair = MemoryPair(config=SMALL)
    pair.settle()
    pair.fail("client")
    pair.settle()
    for side in pair.sides:
        side.link.path_up(pair.ends[side.name], pair.now)
    pair.client.send(content(LARGE))
    pair.settle()
    pair.run(20.0)
    assert not any(pair.in_flight_there())
    assert not any(path.usable for path in pair.client.link.paths if path.slots)


@pytest.mark.parametrize("at", SIDES)
def test_memory_that_fails_before_it_is_joined_leaves_nothing_in_flight(at: str) -> None:
    pair = MemoryPair(config=SMALL, join=False)
    pair.offer()
    pair.freeze("server")
    pair.challenge()
    pair.flush()
    assert pair.client.in_flight >= 1
    pair.fail(at)
    pair.thaw("server")
    pair.client.send(content(LARGE))
    pair.server.send(content(LARGE))
    pair.settle()
    pair.run(1.0)
    assert [side.payloads for side in pair.sides] == [[content(LARGE)]] * 2
    assert not any(pair.in_flight_there())


def test_a_challenge_that_does_not_open_ends_what_was_offered() -> None:
    """Else the caller would wait for its answer for ever, and keep the memory for it."""
    pair = MemoryPair(config=SMALL, join=False)
    pair.offer()
    pair.ends["server"].alter = flip_last
    pair.challenge()
    pair.run(0.1)
    assert pair.server.memory_failures == ["authentication"]
    assert pair.ends["client"].fault is not None
    assert not any(pair.in_flight_there())
    pair.client.send(content(LARGE))
    pair.settle()
    assert pair.server.payloads == [content(LARGE)]


@pytest.mark.parametrize("loser", SIDES)
def test_a_link_that_closes_while_memory_fails_still_delivers(loser: str) -> None:
    pair = MemoryPair(config=SMALL)
    pair.settle()
    pair.client.send(content(LARGE))
    pair.client.link.close()
    pair.advance(until=lambda: not pair.ends["client"].free_slots())
    pair.fail(loser)
    pair.advance(until=lambda: all(each.failed for each in pair.sides))
    assert pair.server.payloads == [content(LARGE)]
