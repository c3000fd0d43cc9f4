"""Attack 4: pass the soft limit, then block the rekey up to the hard limit.

Past the soft limit the epoch advances as soon as the peer can follow. An enemy
who keeps every acknowledgement back prevents that, and gets no more ciphertext
under the key than the hard limit allows: then sending raises and the link ends.
"""

from __future__ import annotations

import pytest

from support.pair import Pair
from transport.config import KIB, Config
from transport.crypto.seal import KeyLimits
from transport.errors import ClosedError, KeyExhaustedError
from transport.link import State
from transport.wire.packet import FRAMES_HEADER

# The first window, ten packets, holds more small messages than the limits below allow.
SMALL = Config(packet_payload=32 * KIB, eager_limit=2 * KIB, window_bytes=1024 * KIB)


def test_the_epoch_advances_after_the_soft_limit() -> None:
    pair = Pair(paths=1, config=SMALL, limits=KeyLimits(soft_packets=10, hard_packets=100))
    for index in range(100):
        pair.client.send(bytes([index]) * 1000)
        pair.settle()
    assert pair.client.stats().epoch >= 8
    assert len(pair.server.received) == 100


@pytest.mark.parametrize(
    "limits",
    [
        KeyLimits(soft_packets=8, hard_packets=40),
        KeyLimits(soft_blocks=1000, hard_blocks=4000),
    ],
    ids=["packets", "blocks"],
)
def test_a_blocked_rekey_stops_the_sender_at_the_hard_limit(limits: KeyLimits) -> None:
    pair = Pair(paths=1, config=SMALL, limits=limits)
    pair.settle()
    pair.tapping = True
    pair.filter = lambda name, packet: packet if name == "client" else None
    while pair.client.link.state is State.OPEN:
        pair.client.send(bytes(1500))
        pair.flush()
        assert pair.client.link.last_message < 10_000
    assert isinstance(pair.client.failure, KeyExhaustedError)
    with pytest.raises(ClosedError):
        pair.client.send(b"one more")

    sealed = {packet for name, _, packet in pair.tap if name == "client"}
    numbers = {FRAMES_HEADER.unpack_from(packet)[4] for packet in sealed}
    epochs = {FRAMES_HEADER.unpack_from(packet)[2] for packet in sealed}
    assert epochs == {0}, "the rekey never came through"
    assert len(numbers) == len(sealed), "each packet its own number"
    assert len(sealed) <= limits.hard_packets
    assert sum(len(packet) for packet in sealed) <= 16 * limits.hard_blocks

    # Nothing more comes, however long one waits and asks.
    count = len(pair.tap)
    for _ in range(5):
        pair.run(5.0)
        pair.client.link.handle_timeout(pair.now)
        assert pair.client.link.poll_transmit(pair.now) is None
    assert [entry for entry in pair.tap[count:] if entry[0] == "client"] == []


def test_retransmissions_spend_nothing_so_they_cannot_exhaust_a_key() -> None:
    pair = Pair(paths=1, config=SMALL, limits=KeyLimits(soft_packets=20, hard_packets=60))
    pair.client.send(b"unheard")
    pair.tapping = True
    pair.filter = lambda name, packet: packet if name == "server" else None
    pair.run(6.0)
    pair.filter = None
    mine = [packet for name, _, packet in pair.tap if name == "client"]
    assert len(mine) > len(set(mine)), "the same bytes again"
    pair.settle()
    assert pair.server.payloads == [b"unheard"]


def test_without_the_hard_limit_the_same_enemy_collects_ciphertext_for_as_long_as_he_likes() -> (
    None
):
    """Control: the limit is what stops the sender, not the window or the missing answers."""
    pair = Pair(paths=1, config=SMALL, limits=KeyLimits(soft_packets=8))
    pair.tapping = True
    pair.filter = lambda name, packet: packet if name == "client" else None
    for _ in range(200):
        pair.client.send(bytes(1500))
        pair.flush()
    assert pair.client.link.state is State.OPEN
    assert len(pair.tap) > 50
