"""Attack 2: flip any bit of header or ciphertext.

The whole header is authenticated with the ciphertext. Whatever bit the enemy
turns over on its way, the packet is dropped and counted, nothing of it is
delivered, and the genuine packet is still good afterwards.
"""

from __future__ import annotations

import random

import pytest

from support.hostile import StolenKeys
from support.pair import Pair
from transport.config import KIB, Config
from transport.wire import frames

SMALL = Config(packet_payload=4 * KIB, eager_limit=1 * KIB, window_bytes=64 * KIB)


def flips(packet: bytes) -> list[bytes]:
    """The packet with each of its bits flipped, one at a time."""
    flipped = []
    for bit in range(len(packet) * 8):
        copy = bytearray(packet)
        copy[bit >> 3] ^= 1 << (bit & 7)
        flipped.append(bytes(copy))
    return flipped


def test_every_bit_of_a_small_message_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    stolen = StolenKeys(monkeypatch)
    pair = Pair(paths=1, config=SMALL)
    frame = frames.encode_eager_head(0, 0, 7, b"", 5) + b"money"
    _, packet = stolen.sealer(pair, "client").seal_frames(frame)
    server, wire = pair.server, pair.server.wires[0]
    for flipped in flips(bytes(packet)):
        server.link.receive_packet(wire, flipped, pair.now)
    server.take_events(server.link)
    assert server.received == []
    drops = server.stats().drops
    assert sum(drops.values()) == 8 * len(packet)
    # Bits of the first byte name another kind of packet, bits of the number another number.
    assert set(drops) <= {"authentication", "state", "malformed", "replay"}
    assert drops["authentication"] > 8 * (len(packet) - 3)
    server.link.receive_packet(wire, bytes(packet), pair.now)
    server.take_events(server.link)
    assert server.received == [(0, 7, b"money")]


def test_every_bit_of_a_piece_of_a_large_message_matters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stolen = StolenKeys(monkeypatch)
    pair = Pair(paths=1, config=SMALL)
    stolen.say(pair, frames.encode_announce(0, 0, 7, b"", 12))
    slot = memoryview(bytearray(100))
    _, size = stolen.sealer(pair, "client").seal_bulk_into(slot, 0, 0, b"large-as-can")
    packet = bytes(slot[:size])
    server, wire = pair.server, pair.server.wires[0]
    for flipped in flips(packet):
        server.link.receive_packet(wire, flipped, pair.now)
    server.take_events(server.link)
    assert server.received == []
    assert sum(server.stats().drops.values()) == 8 * len(packet)
    # A forgery may have scribbled on bytes that nobody was given; the genuine ones win.
    server.link.receive_packet(wire, packet, pair.now)
    server.take_events(server.link)
    assert server.received == [(0, 7, b"large-as-can")]


def test_a_link_under_constant_corruption_delivers_only_what_was_sent() -> None:
    pair = Pair(paths=2, config=SMALL)
    rng = random.Random(2)

    def turn(name: str, packet: bytes) -> bytes:
        """The enemy flips one bit of every third packet or so."""
        if rng.random() > 0.3:
            return packet
        copy = bytearray(packet)
        bit = rng.randrange(8 * len(copy))
        copy[bit >> 3] ^= 1 << (bit & 7)
        return bytes(copy)

    pair.filter = turn
    messages = [bytes([index]) * (index * 450) for index in range(40)]
    for message in messages:
        pair.client.send(message)
    pair.settle()
    assert sorted(pair.server.payloads) == sorted(messages)
    assert pair.server.dropped("authentication") > 5
    assert pair.open, "forgeries never end a link"


def test_a_thousand_forgeries_warn_the_operator_and_leave_the_link_alone() -> None:
    pair = Pair(paths=1, config=SMALL)
    for number in range(2000):
        forgery = b"\x15\x00\x00\x00" + (9).to_bytes(4, "little")
        forgery += (1000 + number).to_bytes(8, "little") + bytes(40)
        pair.server.link.receive_packet(pair.server.wires[0], forgery, pair.now)
    pair.server.take_events(pair.server.link)
    assert pair.server.stats().drops == {"authentication": 2000}
    assert len(pair.server.warnings) == 1
    assert "1024" in pair.server.warnings[0]
    pair.client.send(b"alive")
    assert pair.deliver() == b"alive"
