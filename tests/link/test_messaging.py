"""Messages at one go: the short way leaves what the long way would, and steps aside for it."""

from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.pair import Pair
from transport.config import KIB, Config
from transport.crypto.seal import KeyLimits
from transport.link import LinkStats, State

SMALL = Config(
    packet_payload=8 * KIB,
    eager_limit=2 * KIB,
    window_bytes=64 * KIB,
    unexpected_bytes=64 * KIB,
)


def sent(pair: Pair, payloads: list[bytes], *, express: bool) -> int:
    """Send each message, at one go where that is asked for and possible; return how many were."""
    count = 0
    for tag, payload in enumerate(payloads):
        if express and pair.express(pair.client, payload, tag=tag):
            count += 1
        else:
            pair.client.send(payload, tag=tag)
            pair.flush()
        pair.run(0.0005)  # so that some of them meet packets that are under way
    pair.settle()
    pair.run(0.1)
    return count


def what_is_left(stats: LinkStats) -> dict[str, object]:
    """What must not depend on the way that messages took."""
    kept = ("messages_sent", "messages_received", "unclaimed_messages", "in_flight_bytes")
    kept += ("in_flight_packets", "retransmissions", "drops", "epoch", "state")
    return {name: value for name, value in dataclasses.asdict(stats).items() if name in kept}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 20 * KIB), min_size=1, max_size=25), st.integers(0, 99))
def test_both_ways_lead_to_the_same(sizes: list[int], seed: int) -> None:
    payloads = [random.Random(seed + at).randbytes(size) for at, size in enumerate(sizes)]
    pairs = [Pair(paths=2, seed=seed, config=SMALL) for _ in range(2)]
    counts = [
        sent(pair, payloads, express=express)
        for pair, express in zip(pairs, (True, False), strict=True)
    ]
    assert counts[1] == 0
    if sizes[0] <= SMALL.packet_payload:
        assert counts[0] > 0
    one, other = pairs
    assert one.server.order == other.server.order == list(range(len(payloads)))
    for pair in pairs:  # a large message is whole later than a small one behind it
        assert [payload for _, _, payload in sorted(pair.server.received)] == payloads
    for side, twin in zip(one.sides, other.sides, strict=True):
        assert what_is_left(side.stats()) == what_is_left(twin.stats())


def test_what_waits_goes_first() -> None:
    pair = Pair(config=SMALL)
    pair.client.send(b"first")
    assert not pair.express(pair.client, b"second"), "it would overtake"
    pair.flush()
    assert pair.express(pair.client, b"third")


def test_it_is_refused_where_the_long_way_would_wait() -> None:
    pair = Pair(paths=1, config=SMALL)
    pair.server.draining = False  # nothing is consumed, so credit runs out
    count = 0
    while pair.express(pair.client, bytes(KIB)):
        count += 1
        pair.run(0.01)
        assert count < 1000
    assert count == SMALL.unexpected_bytes // 2 // (KIB + 256)
    pair.blackhole()
    full = Pair(paths=1, config=SMALL)
    full.blackhole()
    while full.express(full.client, bytes(8 * KIB)):
        assert full.client.stats().in_flight_bytes <= full.client.stats().window_bytes


def test_larger_than_a_packet_is_not_for_it() -> None:
    pair = Pair(config=SMALL)
    assert not pair.express(pair.client, bytes(SMALL.packet_payload + 1))
    assert pair.client.stats().messages_sent == 0


def test_a_key_that_wants_to_be_changed_has_precedence() -> None:
    pair = Pair(paths=1, config=SMALL, limits=KeyLimits(soft_packets=50, hard_packets=500))
    for number in range(400):
        if not pair.express(pair.client, bytes([number % 256])):
            pair.client.send(bytes([number % 256]))
        pair.run(0.01)
    assert pair.client.stats().epoch >= 5
    assert pair.server.payloads == [bytes([number % 256]) for number in range(400)]


@pytest.mark.parametrize("state", [State.DRAINING, State.CLOSED])
def test_a_link_that_is_not_open_takes_nothing(state: State) -> None:
    pair = Pair(config=SMALL)
    if state is State.DRAINING:
        pair.client.send(bytes(100 * KIB))
        pair.client.link.close()
    else:
        pair.client.link.close()
        pair.run(1.0)
    assert pair.client.link.state is state
    assert not pair.express(pair.client, b"late")


def test_a_link_wants_service_only_where_it_has_something_to_do() -> None:
    pair = Pair(config=SMALL)
    pair.run(3.0)
    assert not pair.client.link.wants_service
    pair.client.send(b"x")
    assert pair.client.link.wants_service
    pair.settle()
    pair.flush()
    assert not pair.client.link.wants_service
