"""Attack 1: replay a packet, also from outside the window.

The enemy records every packet and sends it again, at once or much later. It is
dropped as `replay` or `too_old`, and nothing else changes: what was delivered,
which paths there are, what is in flight.
"""

from __future__ import annotations

import random
from typing import cast

import pytest

from support.pair import CLIENT_INDEX, Pair
from support.side import Side
from transport.config import KIB, Config
from transport.crypto.replay import WINDOW
from transport.link.drops import REPLAYED_HELLO
from transport.node.directory import Directory
from transport.path import Path
from transport.wire.packet import FIRST_PAIR, Kind, classify

SMALL = Config(packet_payload=4 * KIB, eager_limit=1 * KIB, window_bytes=64 * KIB)


class Nowhere:
    """What a directory asks of a path."""

    address = "nowhere"
    connected = True


def sealed(packet: bytes) -> int:
    """How many sealed packets a packet on the wire is."""
    return 2 if packet[0] == FIRST_PAIR else 1


def facts(side: Side) -> dict[str, object]:
    """Everything an attack could want to change."""
    stats = side.stats()
    return {
        "state": stats.state,
        "epoch": (stats.generation, stats.epoch),
        "received": list(side.received),
        "messages": (stats.messages_received, stats.unclaimed_messages),
        "packets": stats.packets_received,
        "in flight": stats.in_flight_packets,
        "paths": [(path.state, path.address, path.packets_received) for path in stats.paths],
        "bound": list(side.bound),
        "handshakes": side.established,
    }


def recorded(pair: Pair) -> list[tuple[str, int, bytes]]:
    """An exchange of small and large messages, over every path, on the enemy's disk."""
    pair.tapping = True
    for side in pair.sides:
        for index in range(30):
            side.send(bytes([index]) * (index * 400), tag=index)
    pair.settle()
    pair.run(0.5)
    pair.tapping = False
    return pair.tap


def replayed(pair: Pair, tape: list[tuple[str, int, bytes]]) -> None:
    for name, path, packet in tape:
        receiver = pair.other(name)
        receiver.link.receive_packet(receiver.wires[path], packet, pair.now)
        receiver.take_events(receiver.link)


def test_a_replayed_packet_is_dropped_counted_and_changes_nothing() -> None:
    pair = Pair(config=SMALL)
    tape = recorded(pair)
    before = {side.name: facts(side) for side in pair.sides}
    random.Random(1).shuffle(tape)
    replayed(pair, tape)
    for side in pair.sides:
        count = sum(sealed(each) for name, _, each in tape if pair.other(name) is side)
        assert count > 20
        assert side.stats().drops == {"replay": count}
        assert facts(side) == before[side.name]


def test_a_packet_from_outside_the_window_is_too_old() -> None:
    pair = Pair(config=SMALL)
    tape = recorded(pair)
    while pair.client.stats().packets_sent < WINDOW + 3 * len(tape):
        for _ in range(64):
            pair.client.send(bytes(1000))
            pair.server.send(bytes(1000))
        pair.settle()
    mine = [entry for entry in tape if entry[0] == "client"]
    before = facts(pair.server)
    replayed(pair, mine)
    assert pair.server.stats().drops == {"too_old": sum(sealed(each) for _, _, each in mine)}
    assert facts(pair.server) == before


def test_a_packet_replayed_over_another_path_does_not_move_the_link_there() -> None:
    pair = Pair(paths=3, connect=False)
    pair.tapping = True
    pair.connect()
    pair.run(0.5)
    before = facts(pair.server)
    joins = [packet for name, _, packet in pair.tap if name == "client"]
    strangers_wire = object()
    for packet in joins:
        if classify(memoryview(packet))[0] is Kind.FRAMES:
            pair.server.link.receive_packet(strangers_wire, packet, pair.now)
    pair.server.take_events(pair.server.link)
    assert facts(pair.server) == before
    assert pair.server.stats().drops["replay"] > 2


def test_without_the_window_the_same_packets_would_open_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Control: the window is what stops them; they are genuine in every other way."""

    class Forgetful:
        def check(self, number: int) -> str | None:
            return None

        def mark(self, number: int) -> None:
            pass

    monkeypatch.setattr("transport.crypto.seal.ReplayWindow", Forgetful)
    pair = Pair(config=SMALL)
    tape = recorded(pair)
    before = pair.server.stats().packets_received
    replayed(pair, tape)
    count = sum(sealed(each) for name, _, each in tape if name == "client")
    assert pair.server.stats().packets_received - before == count


def test_a_replayed_handshake_makes_no_second_link() -> None:
    pair = Pair(connect=False)
    pair.tapping = True
    pair.connect()
    pair.run(0.5)
    handshake = [
        (name, path, packet)
        for name, path, packet in pair.tap
        if classify(memoryview(packet))[0] not in (Kind.FRAMES, Kind.BULK)
    ]
    assert len(handshake) == 5
    before = {side.name: facts(side) for side in pair.sides}
    for name, path, packet in handshake:
        receiver = pair.other(name)
        link = receiver.links.get(CLIENT_INDEX) or receiver.link
        link.receive_packet(receiver.wires[path], packet, pair.now)
        receiver.take_events(link)
    for side in pair.sides:
        assert facts(side) == before[side.name]
    assert pair.client.stats().drops == {"state": 2}
    assert pair.server.stats().drops == {"state": 3}
    pair.client.send(b"undisturbed")
    assert pair.deliver() == b"undisturbed"


def test_a_replayed_first_message_is_recognised_before_any_key_agreement() -> None:
    pair = Pair(paths=1, connect=False)
    pair.tapping = True
    pair.connect()
    init = memoryview(pair.tap[0][2])
    directory = Directory(pair.server.terms, pair.server.config)
    path = cast(Path, Nowhere())
    assert directory.answer(path, init, 0.0) is not None
    for _ in range(3):
        assert directory.answer(path, init, 0.0) is None
    assert directory.drops == {REPLAYED_HELLO: 3}
    assert len(list(directory)) == 1
