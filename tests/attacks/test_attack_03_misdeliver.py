"""Attack 3: reorder, delay across a rekey, send to another link, reflect to its sender.

Packets of one link may arrive in any order, even across one change of keys.
Everything else that is genuine somewhere is refused elsewhere: later, on
another link, or at the one who sealed it.
"""

from __future__ import annotations

import random

import pytest

from support.hostile import StolenKeys
from support.pair import Pair
from transport.config import KIB, Config
from transport.crypto.seal import KeyLimits
from transport.identity import Identity
from transport.wire import frames

SMALL = Config(packet_payload=4 * KIB, eager_limit=1 * KIB, window_bytes=64 * KIB)


def eager(number: int, payload: bytes) -> bytes:
    return frames.encode_eager_head(number, 0, 0, b"", len(payload)) + payload


def test_packets_in_any_order_within_the_window_are_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stolen = StolenKeys(monkeypatch)
    pair = Pair(paths=1, config=SMALL)
    sealer = stolen.sealer(pair, "client")
    packets = [
        bytes(sealer.seal_frames(eager(index, index.to_bytes(2, "big")))[1]) for index in range(500)
    ]
    random.Random(3).shuffle(packets)
    for packet in packets:
        pair.server.link.receive_packet(pair.server.wires[0], packet, pair.now)
    pair.server.take_events(pair.server.link)
    assert pair.server.payloads == [index.to_bytes(2, "big") for index in range(500)]
    assert pair.server.stats().drops == {}


def test_a_packet_delayed_across_one_rekey_opens_and_across_two_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stolen = StolenKeys(monkeypatch)
    pair = Pair(paths=1, config=SMALL)
    sealer = stolen.sealer(pair, "client")
    link, wire = pair.server.link, pair.server.wires[0]
    held = [bytes(sealer.seal_frames(eager(index, b"held"))[1]) for index in (0, 1)]
    sealer.advance()
    link.receive_packet(wire, bytes(sealer.seal_frames(frames.encode_ping())[1]), pair.now)
    link.receive_packet(wire, held[0], pair.now)
    sealer.advance()
    link.receive_packet(wire, bytes(sealer.seal_frames(frames.encode_ping())[1]), pair.now)
    link.receive_packet(wire, held[1], pair.now)
    pair.server.take_events(pair.server.link)
    assert pair.server.payloads == [b"held"]
    assert pair.server.stats().drops == {"authentication": 1}


def test_the_key_before_is_gone_once_its_sender_says_that_nothing_is_outstanding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stolen = StolenKeys(monkeypatch)
    pair = Pair(paths=1, config=SMALL)
    sealer = stolen.sealer(pair, "client")
    held = bytes(sealer.seal_frames(eager(0, b"held"))[1])
    sealer.advance()
    for _ in range(2):
        stolen.say(pair, frames.encode_ack(sealer.next_number, []) + frames.encode_ping())
    pair.server.link.receive_packet(pair.server.wires[0], held, pair.now)
    assert pair.server.stats().drops == {"authentication": 1}


def test_a_rekeying_link_with_held_back_packets_delivers_all_in_the_end() -> None:
    pair = Pair(paths=1, config=SMALL, limits=KeyLimits(soft_packets=10, hard_packets=2000))
    held: list[bytes] = []
    rng = random.Random(5)

    def hold(name: str, packet: bytes) -> bytes | None:
        if name == "client" and rng.random() < 0.3:
            held.append(packet)
            return None
        return packet

    pair.filter = hold
    messages = [bytes([index]) * 700 for index in range(200)]
    for message in messages:
        pair.client.send(message)
        if len(held) > 5:
            pair.inject("server", 0, held.pop(rng.randrange(len(held))), delay=rng.random() / 10)
        pair.run(0.005)
    pair.settle()
    assert pair.server.payloads == messages
    assert pair.client.stats().epoch > 3


def test_a_packet_of_another_link_between_the_same_two_nodes_is_refused() -> None:
    identities = Identity.generate(), Identity.generate()
    one = Pair(paths=1, config=SMALL, identities=identities)
    other = Pair(paths=1, config=SMALL, identities=identities)
    one.tapping = True
    for index in range(10):
        one.client.send(bytes([index]) * 2000)
    one.settle()
    theirs = [packet for name, _, packet in one.tap if name == "client"]
    # The other link has seen none of these numbers, so nothing but the key can tell.
    for packet in theirs:
        other.server.link.receive_packet(other.server.wires[0], packet, other.now)
    assert other.server.stats().drops["authentication"] + other.server.stats().drops.get(
        "replay", 0
    ) == len(theirs)
    assert other.server.stats().drops["authentication"] > 5
    assert other.server.received == []
    other.client.send(b"undisturbed")
    assert other.deliver() == b"undisturbed"


def test_a_packet_reflected_to_its_sender_is_refused() -> None:
    pair = Pair(paths=1, config=SMALL)
    pair.tapping = True
    for index in range(20):
        pair.client.send(bytes([index]) * 2000)
    pair.settle()
    own = [packet for name, _, packet in pair.tap if name == "client"]
    before = pair.client.stats().drops.get("authentication", 0)
    for packet in own:
        pair.client.link.receive_packet(pair.client.wires[0], packet, pair.now)
    drops = pair.client.stats().drops
    assert drops["authentication"] - before + drops.get("replay", 0) == len(own)
    assert drops["authentication"] > before
    assert pair.client.received == []


def test_both_directions_under_one_key_would_let_a_reflection_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Control: separate keys for each direction are what refuses a reflected packet."""
    monkeypatch.setattr(
        "transport.link.handshake.direction_secret", lambda root, *, from_initiator: root
    )
    pair = Pair(paths=1, config=SMALL)
    pair.tapping = True
    for index in range(20):
        pair.client.send(bytes([index]) * 500)
    pair.settle()
    for name, _, packet in pair.tap:
        if name == "client":
            pair.client.link.receive_packet(pair.client.wires[0], packet, pair.now)
    pair.client.take_events(pair.client.link)
    assert pair.client.received != []
