"""The way out: what is repeated where, how far numbers may run ahead, what may share a packet."""

from __future__ import annotations

import pytest

from support.pair import Pair
from transport.config import KIB, Config
from transport.crypto.replay import WINDOW
from transport.link.sender import ACK_SPAN, DATA_SPAN, frames_capacity, packet_limit
from transport.wire.packet import BULK_OVERHEAD, FRAMES_HEADER, FRAMES_OVERHEAD

SMALL = Config(packet_payload=8 * KIB, eager_limit=2 * KIB, window_bytes=128 * KIB)


def number_of(packet: bytes) -> int:
    number: int = FRAMES_HEADER.unpack_from(packet)[4]
    return number


def test_a_lost_packet_is_repeated_byte_for_byte_over_another_path() -> None:
    pair = Pair(paths=2, config=SMALL)
    pair.run(1.0)
    pair.tapping = True
    lost: list[bytes] = []

    def lose(name: str, packet: bytes) -> bytes | None:
        if name == "client" and len(packet) > 4 * KIB and len(lost) < 5:
            lost.append(packet)
            return None
        return packet

    pair.filter = lose
    pair.client.send(bytes(200 * KIB))
    pair.settle()
    assert len(lost) == 5
    for packet in lost:
        paths = [path for _, path, sent in pair.tap if sent == packet]
        assert len(paths) == 2
        assert paths[0] != paths[1]
    assert pair.client.stats().retransmissions == 5


def test_numbers_do_not_run_away_from_a_packet_that_never_arrives() -> None:
    """Else it would have left the receiver's replay window when it comes at last."""
    pair = Pair(paths=1, config=SMALL)
    pair.run(0.5)
    unlucky = pair.client.stats().packets_sent
    held: list[bytes] = []

    def hold(name: str, packet: bytes) -> bytes | None:
        if name == "client":
            if not held:
                held.append(packet)
            if packet == held[0]:
                return None
        return packet

    pair.filter = hold
    pair.tapping = True
    count = DATA_SPAN + 500
    for index in range(count):
        pair.client.send(index.to_bytes(4, "big"))
        pair.step()
    numbers = [number_of(packet) for name, _, packet in pair.tap if name == "client"]
    first = number_of(held[0])
    assert max(numbers) < first + ACK_SPAN < first + WINDOW
    assert pair.client.path(0).packets_sent - unlucky > DATA_SPAN // 4
    assert pair.server.received == [], "the first one is missing"
    pair.filter = None
    pair.settle()
    assert pair.server.payloads == [index.to_bytes(4, "big") for index in range(count)]
    assert pair.server.dropped("too_old") == 0


def test_new_packets_wait_once_the_span_is_used_up() -> None:
    config = Config(packet_payload=1 * KIB, eager_limit=256, window_packets=4096)
    pair = Pair(paths=1, config=config)
    pair.run(0.5)
    held: list[bytes] = []

    def hold(name: str, packet: bytes) -> bytes | None:
        if name == "client" and len(packet) > 900:
            held[:] = held or [packet]
            return None if packet == held[0] else packet
        return packet

    pair.filter = hold
    pair.tapping = True
    size = (DATA_SPAN + 500) * KIB
    pair.client.send(bytes(size))
    pair.run(3.0)
    first = number_of(held[0])
    pieces = {number_of(packet) for _, _, packet in pair.tap if len(packet) > 900}
    assert max(pieces) == first + DATA_SPAN - 1
    assert pair.server.received == []
    pair.filter = None
    assert pair.deliver() == bytes(size)


@pytest.mark.parametrize("payload", [1 * KIB, 16 * KIB, 1024 * KIB])
@pytest.mark.parametrize("eager", [256, 8 * KIB, 256 * KIB])
def test_every_packet_of_a_configuration_fits_its_own_limit(payload: int, eager: int) -> None:
    config = Config(packet_payload=payload, eager_limit=eager, window_bytes=4096 * KIB)
    assert packet_limit(config) >= payload + BULK_OVERHEAD
    assert packet_limit(config) >= frames_capacity(config) + FRAMES_OVERHEAD
    # `Pair` refuses any packet that is larger than its receiver takes.
    pair = Pair(paths=1, config=config)
    for index in range(300):
        for side in pair.sides:
            side.send(bytes(index * 101 % (2 * eager)))
    pair.settle()
    assert len(pair.client.received) == len(pair.server.received) == 300
