"""What a link says of itself adds up: shares to one, bytes to what was sent."""

from __future__ import annotations

import pytest

from support.pair import Pair
from transport.config import KIB, MIB, Config

SMALL = Config(packet_payload=8 * KIB, eager_limit=2 * KIB, window_bytes=128 * KIB)


@pytest.mark.parametrize("paths", [1, 3, 16])
def test_shares_sum_to_one_and_follow_from_the_bytes(paths: int) -> None:
    pair = Pair(paths=paths, config=SMALL)
    pair.client.send(bytes(2 * MIB))
    pair.settle()
    for side in pair.sides:
        stats = side.stats()
        assert sum(path.share for path in stats.paths) == pytest.approx(1.0)
        total = sum(path.bytes_sent for path in stats.paths)
        assert [path.share for path in stats.paths] == [
            path.bytes_sent / total for path in stats.paths
        ]
        assert total <= stats.bytes_sent
        assert sum(path.packets_sent for path in stats.paths) <= stats.packets_sent


def test_before_anything_was_sent_there_are_no_shares() -> None:
    pair = Pair(paths=2, connect=False)
    stats = pair.client.stats()
    assert [path.share for path in stats.paths] == [0.0, 0.0]
    assert stats.rtt is None
    assert stats.state == "handshaking"
    assert (stats.packets_sent, stats.in_flight_packets) == (1, 0), "the first of the handshake"


def test_what_is_in_flight_is_in_flight_over_some_path() -> None:
    pair = Pair(paths=4, config=SMALL, latency=0.01)
    pair.client.send(bytes(2 * MIB))
    seen = 0
    while not pair.server.received:
        pair.step()
        stats = pair.client.stats()
        assert sum(path.in_flight_bytes for path in stats.paths) == stats.in_flight_bytes
        assert stats.in_flight_bytes <= stats.window_bytes
        seen = max(seen, stats.in_flight_bytes)
    assert seen > 64 * KIB


def test_the_round_trip_is_the_least_of_all_paths() -> None:
    pair = Pair(paths=3, config=SMALL, latency=0.01)
    pair.client.send(bytes(1 * MIB))
    pair.settle()
    stats = pair.client.stats()
    trips = [path.rtt for path in stats.paths if path.rtt is not None]
    assert stats.rtt == min(trips)
    assert all(path.rtt_min is not None and path.rtt_min >= 0.02 - 1e-9 for path in stats.paths)


def test_needless_repetitions_are_some_of_the_repetitions() -> None:
    pair = Pair(paths=2, config=SMALL, latency=0.01)
    pair.client.send(bytes(512 * KIB))
    pair.settle()
    pair.latency = 0.05  # the route has become longer
    for _ in range(3):
        pair.client.send(bytes(512 * KIB))
        pair.settle()
    stats = pair.client.stats()
    assert 0 <= stats.spurious_retransmissions <= stats.retransmissions
    assert stats.retransmissions <= sum(path.retransmissions for path in stats.paths)
