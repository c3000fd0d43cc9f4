"""The link over bad paths: loss, duplication, reordering, corruption, blackholes and cuts."""

from __future__ import annotations

import random

import pytest

from support.pair import Pair
from support.side import Side
from transport.config import KIB, MIB, Config
from transport.errors import PeerLostError
from transport.link import State
from transport.path import Faults

SMALL = Config(
    packet_payload=8 * KIB,
    eager_limit=2 * KIB,
    window_bytes=128 * KIB,
    unexpected_bytes=64 * KIB,
)


def traffic(seed: int, count: int = 60, most: int = 60 * KIB) -> list[bytes]:
    """Messages of mixed sizes, each different from all others."""
    rng = random.Random(seed)
    sizes = [
        rng.choice((0, 1, 40, 2 * KIB, 2 * KIB + 1, rng.randrange(most))) for _ in range(count)
    ]
    return [index.to_bytes(4, "big") + rng.randbytes(size) for index, size in enumerate(sizes)]


def send_all(pair: Pair, messages: dict[str, list[bytes]]) -> None:
    for side in pair.sides:
        for index, message in enumerate(messages[side.name]):
            side.send(message, tag=index)


def arrived_exactly_once(side: Side, sent: list[bytes]) -> bool:
    """Whether every message came once, intact and announced in its sender's order."""
    return side.order == list(range(len(sent))) and sorted(side.received) == [
        (0, index, message) for index, message in enumerate(sent)
    ]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "faults",
    [
        Faults(loss=0.02, duplication=0.02, reordering=0.02, corruption=0.02),
        Faults(loss=0.2),
        Faults(duplication=0.2, reordering=0.2, jitter=0.01),
        Faults(corruption=0.1),
        Faults(loss=0.1, duplication=0.1, reordering=0.1, corruption=0.1, jitter=0.002),
    ],
    ids=["2 % of all", "20 % loss", "20 % twice or late", "10 % corrupt", "10 % of all"],
)
def test_everything_arrives_exactly_once_intact_and_in_order(seed: int, faults: Faults) -> None:
    pair = Pair(paths=1 + seed, seed=seed, config=SMALL, faults=faults)
    messages = {side.name: traffic(seed * 10 + index) for index, side in enumerate(pair.sides)}
    send_all(pair, messages)
    pair.settle()
    for side in pair.sides:
        assert arrived_exactly_once(side, messages[pair.other(side.name).name]), f"seed {seed}"
        assert side.failed is None
    if faults.corruption > 0.05:
        assert pair.server.dropped("authentication") > 0
    if faults.duplication > 0.05:
        assert pair.server.dropped("replay") > 0
    if faults.loss:
        assert pair.client.stats().retransmissions > 0


def uneven(pair: Pair) -> None:
    for index in range(4):
        for name in ("client", "server"):
            pair.injectors[name, index].faults = Faults(delay=0.01 * index)


def test_a_calm_network_needs_hardly_any_retransmission_even_with_uneven_paths() -> None:
    """Acknowledgements come back over any path, so round trips differ by as much as paths do."""
    pair = Pair(paths=4, config=SMALL)
    uneven(pair)
    pair.run(2.0)
    before = pair.client.stats()
    packets = 2 * MIB / SMALL.packet_payload
    for _ in range(6):
        pair.client.send(bytes(2 * MIB))
        pair.settle()
    after = pair.client.stats()
    assert after.retransmissions - before.retransmissions < 0.015 * 6 * packets
    assert after.spurious_retransmissions <= after.retransmissions
    trips = [path.rtt for path in after.paths]
    assert trips == sorted(trips, key=lambda rtt: rtt or 0.0)


def test_paths_that_become_uneven_all_at_once_are_learnt() -> None:
    """From a fifth of the slowest path's round trip, in the midst of traffic."""
    pair = Pair(paths=4, config=SMALL)
    pair.run(2.0)
    pair.client.send(bytes(2 * MIB))
    pair.settle()
    uneven(pair)
    before = pair.client.stats().retransmissions
    packets = 2 * MIB / SMALL.packet_payload
    for _ in range(6):
        pair.client.send(bytes(2 * MIB))
        pair.settle()
    assert pair.client.stats().retransmissions - before < 0.03 * 6 * packets
    trips = [path.rtt for path in pair.client.stats().paths]
    assert trips == sorted(trips, key=lambda rtt: rtt or 0.0)
    assert (trips[3] or 0.0) > 0.03, "not what it was before"


def test_a_message_survives_the_loss_of_one_path_which_is_then_suspected() -> None:
    pair = Pair(paths=4, seed=7)
    message = random.Random(7).randbytes(24 * MIB)
    pair.client.send(message, tag=1)
    pair.advance(until=lambda: pair.client.in_flight >= 3)
    pair.blackhole(path=2)
    started = pair.now
    assert pair.deliver() == message
    assert pair.client.path(2).suspected
    assert not pair.client.path(1).suspected
    assert pair.now - started < 2.0, "what was lost is repeated elsewhere, without waiting"


def test_a_path_that_works_again_is_trusted_again() -> None:
    pair = Pair(paths=3)
    pair.blackhole(path=1)
    pair.run(5.0)
    assert pair.client.path(1).suspected
    assert pair.server.path(1).suspected
    sent = pair.client.path(1).packets_sent
    pair.client.send(bytes(16 * MIB))
    pair.settle()
    assert pair.client.path(1).packets_sent - sent < 5, "only probes travel a suspected path"
    pair.blackhole(path=1, on=False)
    pair.run(3.0)
    assert not pair.client.path(1).suspected
    assert not pair.server.path(1).suspected


def test_a_lost_acknowledgement_is_given_again_when_the_packet_comes_again() -> None:
    pair = Pair(paths=1)
    pair.run(0.5)
    pair.client.send(b"once")
    assert pair.deliver() == b"once"
    lost: list[bytes] = []

    def lose_the_first(name: str, packet: bytes) -> bytes | None:
        if name == "server" and not lost:
            lost.append(packet)
            return None
        return packet

    pair.filter = lose_the_first
    started = pair.now
    pair.settle()
    assert lost
    assert pair.now - started < 0.5
    assert pair.server.payloads == [b"once"]


@pytest.mark.parametrize("good", range(4))
def test_an_idle_link_finds_its_one_good_path_within_a_second(good: int) -> None:
    pair = Pair(paths=4)
    pair.run(2.0)
    for path in range(4):
        pair.blackhole(path=path, on=path != good)
    pair.client.send(b"there")
    pair.server.send(b"back")
    pair.settle(limit=1.5)
    pair.run(3.0)
    for side in pair.sides:
        assert [path.suspected for path in side.stats().paths] == [
            path != good for path in range(4)
        ]


def test_losses_on_every_path_but_one_leave_the_link_working() -> None:
    pair = Pair(paths=4, seed=3)
    for path in (0, 1, 3):
        pair.blackhole(path=path)
    pair.client.send(bytes(16 * MIB))
    pair.server.send(bytes(16 * MIB))
    pair.settle()
    assert pair.client.failed is pair.server.failed is None


@pytest.mark.parametrize("paths", [1, 4])
def test_a_peer_out_of_reach_is_lost_within_its_timeout(paths: int) -> None:
    config = Config(peer_timeout=5.0)
    pair = Pair(paths=paths, config=config)
    pair.client.send(bytes(64 * MIB))
    pair.advance(until=lambda: bool(pair.server.accepted) and pair.client.in_flight > 1)
    pair.blackhole()
    started = pair.now
    pair.advance(until=lambda: all(side.failed is not None for side in pair.sides))
    assert pair.now - started < 5.0 + 0.1
    for side in pair.sides:
        assert isinstance(side.failure, PeerLostError)
        assert repr(pair.other(side.name).name) in str(side.failure)
        assert "silent for 5.0 s" in str(side.failure)
    assert pair.client.failed is not None
    assert len(pair.client.failed.outgoing) == 1
    assert pair.server.failed is not None
    assert len(pair.server.failed.incoming) == 1


def test_a_peer_that_hears_nothing_is_lost_although_it_speaks() -> None:
    pair = Pair(paths=2)
    for path in range(2):
        pair.injectors["client", path].blackholed = True
    pair.advance(until=lambda: all(side.failed is not None for side in pair.sides), limit=30.0)
    assert isinstance(pair.server.failure, PeerLostError)


def test_an_idle_link_lives_for_more_than_an_hour() -> None:
    pair = Pair(paths=2)
    pair.run(1.2 * 3600.0)
    assert pair.open
    for side in pair.sides:
        assert side.stats().retransmissions == 0
        assert side.stats().generation == 1, "fresh keys at least every hour"
        assert side.stats().in_flight_packets <= 2
        assert side.stats().drops == {}
    pair.client.send(b"still here")
    assert pair.deliver() == b"still here"


def test_a_side_that_stood_still_does_not_blame_its_peer() -> None:
    pair = Pair(paths=1)
    pair.run(1.0)
    # The process slept: no packet was read and no timer looked at, for a minute.
    pair.now += 60.0
    pair.client.link.handle_timeout(pair.now)
    pair.run(10.0)
    assert pair.open


@pytest.mark.parametrize("seed", range(3))
def test_cut_and_restored_paths_cost_no_message(seed: int) -> None:
    pair = Pair(paths=3, seed=seed, config=SMALL)
    rng = random.Random(seed)
    messages = {side.name: traffic(seed, 40, 300 * KIB) for side in pair.sides}
    send_all(pair, messages)
    down: set[int] = set()
    while any(side.link.settled_through < 39 for side in pair.sides):
        path = rng.randrange(3)
        if path in down:
            pair.restore(path)
            down.remove(path)
        else:
            pair.cut(path)
            down.add(path)
        if len(down) == 3:
            pair.run(rng.random())  # shorter than the peer's patience
            continue
        for _ in range(rng.randrange(40)):
            pair.step()
        assert pair.now < 600.0, f"seed {seed}"
    for side in pair.sides:
        assert side.failed is None, f"seed {seed}"
        assert arrived_exactly_once(side, messages[pair.other(side.name).name])


def test_with_every_path_cut_nothing_spins_and_everything_comes_after() -> None:
    pair = Pair(paths=2, config=SMALL)
    for side in pair.sides:
        side.send(bytes(500 * KIB))
    for _ in range(20):
        pair.step()
    for path in range(2):
        pair.cut(path)
    pair.run(4.0)
    assert pair.client.link.state is State.OPEN
    assert pair.client.path(0).state == "down"
    assert pair.client.path(0).last_failure == "cut"
    for path in range(2):
        pair.restore(path)
    pair.settle()
    assert pair.client.payloads == pair.server.payloads == [bytes(500 * KIB)]


def test_a_path_must_prove_itself_anew_after_each_cut() -> None:
    pair = Pair(paths=2)
    pair.run(1.0)
    pair.cut(1)
    pair.blackhole(path=1)
    pair.restore(1)
    pair.blackhole(path=1)
    assert pair.client.path(1).state == "joining"
    pair.run(3.0)
    assert pair.client.path(1).state == "joining"
    pair.blackhole(path=1, on=False)
    pair.run(3.0)
    assert pair.client.path(1).state == "usable"
    assert pair.server.bound.count(1) == 2


def test_a_late_answer_to_an_old_challenge_does_not_prove_a_new_connection() -> None:
    pair = Pair(paths=2, latency=0.5)
    pair.run(1.0)
    pair.cut(1)
    pair.restore(1)
    pair.tapping = True
    # The answer is on its way when the connection breaks once more.
    pair.advance(until=lambda: any(name == "server" and path == 1 for name, path, _ in pair.tap))
    late = [packet for name, path, packet in pair.tap if name == "server" and path == 1]
    pair.cut(1)
    for packet in late:
        pair.client.link.receive_packet(pair.client.wires[1], packet, pair.now)
    pair.blackhole(path=1)
    pair.client.link.path_up(pair.client.wires[1], pair.now)
    assert pair.client.path(1).state == "joining"


@pytest.mark.parametrize("lost", [0, 1, 2, 3])
def test_a_handshake_over_a_path_that_fails_is_repeated_over_the_next(lost: int) -> None:
    pair = Pair(paths=4, connect=False, seed=lost)
    for path in range(lost):
        pair.blackhole(path=path)
    pair.advance(until=lambda: pair.client.established == pair.server.established == 1)
    assert pair.now < 10.0
    for path in range(4):
        pair.blackhole(path=path, on=False)
    pair.run(5.0)
    for side in pair.sides:
        assert [path.state for path in side.stats().paths] == ["usable"] * 4
    # The path that carried the handshake is as good as any other, in both directions.
    for path in range(4):
        if path != lost:
            pair.blackhole(path=path)
    pair.client.send(b"there")
    pair.server.send(b"back")
    pair.settle(limit=5.0)


@pytest.mark.parametrize("seed", range(6))
def test_the_handshake_itself_survives_a_bad_network(seed: int) -> None:
    faults = Faults(loss=0.2, duplication=0.2, reordering=0.2, corruption=0.1)
    pair = Pair(paths=2, seed=seed, faults=faults)
    pair.client.send(b"hello")
    assert pair.deliver() == b"hello"
    assert pair.client.established == pair.server.established == 1
