"""A message of one packet follows its announcement: unasked, once, and within the credit."""

from __future__ import annotations

import random

import pytest

from support.hostile import StolenKeys
from support.pair import Pair
from transport.config import KIB, Config
from transport.link import State
from transport.wire import frames
from transport.wire.packet import FIRST_BULK, FIRST_FRAMES, FIRST_PAIR, pack_pair, split_pair

PACKET = 8 * KIB
SMALL = Config(
    packet_payload=PACKET,
    eager_limit=2 * KIB,
    window_bytes=64 * KIB,
    unexpected_bytes=64 * KIB,
)


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture
def stolen(monkeypatch: pytest.MonkeyPatch) -> StolenKeys:
    return StolenKeys(monkeypatch)


@pytest.mark.parametrize("size", [2 * KIB + 1, PACKET - 1, PACKET])
def test_it_takes_one_way_and_no_more(size: int) -> None:
    pair = Pair(config=SMALL, latency=0.01)
    pair.settle()
    began = pair.now
    pair.client.send(content(size))
    assert pair.deliver() == content(size)
    assert pair.now - began == pytest.approx(0.01, rel=0.01), "nobody was asked"


def test_a_byte_more_waits_for_a_grant() -> None:
    pair = Pair(config=SMALL, latency=0.01)
    pair.settle()
    began = pair.now
    pair.client.send(content(PACKET + 1))
    assert pair.deliver() == content(PACKET + 1)
    assert pair.now - began == pytest.approx(0.03, rel=0.01)


def test_it_is_kept_until_it_is_accepted() -> None:
    pair = Pair(config=SMALL)
    pair.server.accepting = False
    pair.client.send(content(PACKET))
    pair.settle()  # delivered and acknowledged, though nobody has taken it
    assert pair.server.payloads == []
    assert len(pair.server.waiting) == 1
    pair.server.consume()
    assert pair.server.payloads == [content(PACKET)]


def test_it_may_be_accepted_after_its_sender_has_left() -> None:
    pair = Pair(config=SMALL)
    pair.server.accepting = False
    pair.settle()
    pair.client.send(content(PACKET))
    pair.settle()
    pair.client.link.close()
    pair.advance(until=lambda: pair.server.failed is not None)
    assert pair.server.link.state is State.CLOSED
    [message] = pair.server.waiting
    memory = bytearray(PACKET)
    assert pair.server.link.accept(message, memoryview(memory))
    assert memory == content(PACKET)


def test_what_nobody_takes_is_bounded_by_the_credit() -> None:
    pair = Pair(paths=1, config=SMALL)
    pair.server.accepting = False
    pair.tapping = True
    for number in range(100):
        pair.client.send(content(PACKET, number))
    pair.run(5.0)
    unasked = sum(packet[0] == FIRST_PAIR for side, _, packet in pair.tap if side == "client")
    assert 0 < unasked <= SMALL.unexpected_bytes // 2 // PACKET
    pair.server.consume()
    pair.settle()
    assert pair.server.payloads == [content(PACKET, number) for number in range(100)]


def test_what_it_cost_is_given_back() -> None:
    pair = Pair(paths=1, config=SMALL)
    pair.tapping = True
    for number in range(200):
        pair.client.send(content(PACKET, number))
        pair.run(0.05)
    pair.settle()
    assert len(pair.server.payloads) == 200
    unasked = sum(packet[0] == FIRST_PAIR for side, _, packet in pair.tap if side == "client")
    assert unasked == 200


@pytest.mark.parametrize("lost", ["announcement", "piece"])
def test_either_half_may_be_lost_and_comes_again(lost: str) -> None:
    pair = Pair(paths=2, config=SMALL)
    done = []

    def lose(side: str, packet: bytes) -> bytes | None:
        if side != "client" or packet[0] != FIRST_PAIR or done:
            return packet
        done.append(lost)
        announcement, piece = split_pair(memoryview(packet))
        return bytes(piece) if lost == "announcement" else announcement

    pair.filter = lose
    pair.client.send(content(PACKET))
    for number in range(40):  # evidence that something was lost
        pair.client.send(bytes([number]))
        pair.run(0.002)
    pair.settle()
    assert done == [lost]
    assert pair.server.order == list(range(41))
    assert set(pair.server.payloads) == {content(PACKET), *(bytes([n]) for n in range(40))}
    assert pair.server.dropped("early") == (1 if lost == "announcement" else 0)


def test_a_message_taken_back_before_it_left_frees_its_credit() -> None:
    pair = Pair(paths=1, config=SMALL)
    pair.client.send(content(100 * KIB))  # fills the window
    pair.flush()
    for _ in range(50):
        message = pair.client.post(content(PACKET))
        assert pair.client.link.withdraw(message)
    pair.tapping = True
    pair.settle()
    pair.client.send(content(PACKET, 1))
    assert pair.deliver()
    pair.settle()
    assert pair.server.payloads[-1] == content(PACKET, 1)
    assert any(packet[0] == FIRST_PAIR for side, _, packet in pair.tap if side == "client")


def test_a_peer_beyond_its_credit_is_cut_off(stolen: StolenKeys) -> None:
    pair = Pair(config=SMALL)
    pair.server.accepting = False
    number = 0
    while pair.server.link.state is State.OPEN:
        stolen.say(pair, frames.encode_announce(number, 0, 0, b"", PACKET, follows=True))
        number += 1
        assert number < 100
    assert number == SMALL.unexpected_bytes // (PACKET + 256) + 1


def test_what_is_no_pair_is_malformed(stolen: StolenKeys) -> None:
    pair = Pair(paths=1, config=SMALL)
    sealer = stolen.sealer(pair, "client")
    _, ping = sealer.seal_frames(frames.encode_ping())
    slot = memoryview(bytearray(PACKET))
    _, size = sealer.seal_bulk_into(slot, 0, 0, b"x" * 100)
    bulk = bytes(slot[:size])
    head = pack_pair(ping)
    for packet in (
        head[:7],
        head,
        head + ping,
        head[:8] + bulk + bulk,
        head[:1] + b"\1" + head[2:] + bulk,
        head[:2] + b"\xff\xff" + head[4:] + bulk,
        head[:2] + b"\0\0" + head[4:] + bulk,
        head + head + bulk,
    ):
        before = pair.server.dropped("malformed")
        pair.server.link.receive_packet(pair.server.wires[0], packet, pair.now)
        assert pair.server.dropped("malformed") == before + 1, packet[:16]
    assert pair.open


def test_halves_are_sealed_each_by_itself(stolen: StolenKeys) -> None:
    """What stands before them is not authentic: whoever changes it gains nothing."""
    pair = Pair(paths=1, config=SMALL)
    packets: list[bytes] = []

    def hold(side: str, packet: bytes) -> bytes | None:
        if side == "client" and packet[0] == FIRST_PAIR:
            packets.append(packet)
            return None
        return packet

    pair.filter = hold
    for number in range(2):
        pair.client.send(content(PACKET, number))
        pair.flush()
    halves = [split_pair(memoryview(packet)) for packet in packets]
    assert [half[0][0] for half in halves] == [FIRST_FRAMES, FIRST_FRAMES]
    assert [half[1][0] for half in halves] == [FIRST_BULK, FIRST_BULK]
    # The enemy joins the first announcement to the second message's bytes.
    mixed = pack_pair(halves[0][0]) + bytes(halves[1][1])
    pair.server.link.receive_packet(pair.server.wires[0], mixed, pair.now)
    pair.server.take_events(pair.server.link)
    assert pair.server.payloads == []
    assert pair.server.dropped("early") == 1
    pair.filter = None
    pair.settle()
    assert pair.server.payloads == [content(PACKET, 0), content(PACKET, 1)]
