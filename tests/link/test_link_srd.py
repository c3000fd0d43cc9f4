"""The link over many paths: one goes black, slow or good again, and the peer stands still."""

from __future__ import annotations

import random

import pytest

from support.pair import Pair
from support.pipe import Pipe
from transport.config import KIB, MIB, Config
from transport.link import State
from transport.link.sender import DATA_SPAN
from transport.path import Faults

TRIP = 1e-5  # of a fabric: hosts answer within microseconds
FABRIC = Config(
    packet_payload=8 * KIB,
    eager_limit=4 * KIB,
    window_bytes=1 * MIB,
    acknowledge_after=1e-6,
    retransmit_min=1e-6,
)


def fabric(paths: int, seed: int = 1) -> Pair:
    """A pair that has been in use: its paths are measured."""
    pair = Pair(paths=paths, seed=seed, config=FABRIC, latency=TRIP / 2)
    pair.client.send(bytes(4 * MIB))
    pair.settle()
    assert pair.client.stats().retransmissions == 0
    return pair


def hold(pair: Pair, name: str) -> list[tuple[int, bytes]]:
    """From now on nothing that `name` sends arrives; it is kept, with its path."""
    kept: list[tuple[int, bytes]] = []

    def keep(sender: str, packet: bytes) -> bytes | None:
        if sender != name:
            return packet
        kept.append((pair.tap[-1][1], packet))
        return None

    pair.tapping, pair.filter = True, keep
    return kept


def let_go(pair: Pair, kept: list[tuple[int, bytes]], to: str) -> None:
    """Everything that was kept arrives, in the order in which it was sent."""
    pair.tapping, pair.filter = False, None
    for path, packet in kept:
        pair.inject(to, path, packet)
    kept.clear()
    pair.tap.clear()


# --- a path that goes black --------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("paths", [4, 16, 128])
def test_what_a_black_path_took_is_repeated_elsewhere_within_a_few_round_trips(
    paths: int, seed: int
) -> None:
    pair = fabric(paths, seed)
    message = random.Random(seed).randbytes(8 * MIB)
    pair.client.send(message)
    victim = pair.client.link.paths[seed]
    pair.advance(until=lambda: len(victim.in_flight) > 0 and pair.client.in_flight > 30)
    pair.blackhole(path=seed)
    taken = set(victim.in_flight)
    started = pair.now
    pair.advance(until=lambda: not taken & set(victim.in_flight))
    assert pair.now - started < 6 * TRIP, f"seed {seed}"
    sent = victim.packets_sent
    assert pair.deliver() == message
    pair.settle()
    assert pair.now - started < 60 * TRIP, f"seed {seed}"
    assert victim.suspected
    assert not any(path.suspected for path in pair.client.link.paths if path is not victim)
    assert victim.packets_sent - sent < 12, "probes alone"
    assert 0 < pair.client.stats().retransmissions <= victim.retransmissions


def test_a_black_path_is_found_in_the_first_milliseconds_of_a_link_too() -> None:
    """Its first packet was sent when nothing was known of the network's speed."""
    pair = Pair(paths=8, config=FABRIC, latency=TRIP / 2)
    assert pair.now < 0.001
    pair.client.send(bytes(1 * MIB))
    pair.settle()
    pair.client.send(bytes(8 * MIB))
    pair.advance(until=lambda: pair.client.in_flight > 30)
    pair.blackhole(path=3)
    pair.settle()
    assert pair.now < 0.002
    assert pair.client.path(3).suspected


@pytest.mark.parametrize("paths", [4, 16])
def test_after_its_repair_a_path_carries_its_share_again(paths: int) -> None:
    pair = fabric(paths)
    pair.client.send(bytes(8 * MIB))
    pair.advance(until=lambda: pair.client.in_flight > 30)
    pair.blackhole(path=2)
    pair.settle()
    pair.run(100 * TRIP)
    pair.blackhole(path=2, on=False)
    started = pair.now
    pair.advance(until=lambda: not pair.client.path(2).suspected)
    black_for = 160 * TRIP
    assert pair.now - started < 4 * black_for, "asked ever more rarely, but not that rarely"
    before = pair.client.stats()
    pair.client.send(bytes(16 * MIB))
    pair.settle()
    after = pair.client.stats()
    sent = sum(path.bytes_sent for path in after.paths) - sum(p.bytes_sent for p in before.paths)
    mine = after.paths[2].bytes_sent - before.paths[2].bytes_sent
    assert mine / sent == pytest.approx(1 / paths, rel=0.2)


@pytest.mark.parametrize(
    ("paths", "config", "outage"),
    [(4, Config(), 5.0), (16, FABRIC, 6.5), (64, FABRIC, 2.0)],
    ids=["4 by default", "16-fabric", "64-fabric"],
)
def test_an_outage_shorter_than_the_patience_costs_no_message(
    paths: int, config: Config, outage: float
) -> None:
    """Not for want of numbers either: probes must not push the message out of the window."""
    pair = Pair(paths=paths, config=config, latency=TRIP / 2)
    pair.run(0.6)
    pair.client.send(bytes(256 * KIB))
    pair.settle()
    pair.blackhole()
    pair.client.send(b"lost at first")
    pair.server.send(b"lost as well")
    pair.run(outage)
    assert pair.client.stats().in_flight_packets < 5000
    pair.blackhole(on=False)
    # Patience lasts for eight seconds; what is left of it must do.
    pair.advance(until=lambda: len(pair.server.received) == 2 and bool(pair.client.received))
    assert pair.server.payloads[-1] == b"lost at first"
    assert pair.client.payloads == [b"lost as well"]
    assert pair.client.link.state is State.OPEN


def test_a_path_that_may_not_be_asked_is_no_reason_to_spin() -> None:
    """One packet never arrives: once its number is the oldest by far, no probe may be sealed.

    `Pair` fails where a link wants to be called again and again at the same time.
    """
    config = Config(packet_payload=1 * KIB, eager_limit=256, window_packets=4096)
    pair = Pair(paths=3, config=config)
    pair.run(0.5)
    held: list[bytes] = []

    def hold_one(name: str, packet: bytes) -> bytes | None:
        if name == "client" and len(packet) > 900:
            held[:] = held or [packet]
            return None if packet == held[0] else packet
        return packet

    pair.filter = hold_one
    message = random.Random(3).randbytes((DATA_SPAN + 500) * KIB)
    pair.client.send(message)
    pair.run(6.0)
    assert pair.server.received == []
    pair.filter = None
    assert pair.deliver() == message


# --- a path that is slow -----------------------------------------------------------------------


def test_a_path_at_a_tenth_of_its_speed_carries_a_small_share_afterwards() -> None:
    pipe = Pipe(rate=1.25e9, trip=1e-4, packet=1250, paths=8)
    for line in pipe.lines:
        line.rate = pipe.rate / 4
    pipe.run(trips=50)
    before = [path.packets_sent for path in pipe.paths]
    pipe.run(trips=50)
    shares = [path.packets_sent - old for path, old in zip(pipe.paths, before, strict=True)]
    assert max(shares) < 1.5 * min(shares)
    pipe.lines[5].rate /= 10
    pipe.run(trips=50)
    before = [path.packets_sent for path in pipe.paths]
    assert pipe.throughput(trips=100) > 0.93 * pipe.rate, "the others carry what it does not"
    shares = [path.packets_sent - old for path, old in zip(pipe.paths, before, strict=True)]
    assert shares[5] < 0.3 * sum(shares) / 8
    pipe.lines[5].rate *= 10
    pipe.run(trips=200)
    before = [path.packets_sent for path in pipe.paths]
    pipe.run(trips=50)
    shares = [path.packets_sent - old for path, old in zip(pipe.paths, before, strict=True)]
    assert shares[5] > 0.6 * sum(shares) / 8, "repaired, it is used as before"


def test_a_path_that_takes_ten_times_as_long_carries_a_small_share() -> None:
    pair = fabric(8)
    for name in ("client", "server"):
        pair.injectors[name, 5].faults = Faults(delay=5 * TRIP)
    pair.client.send(bytes(16 * MIB))
    pair.settle()
    before = pair.client.stats()
    pair.client.send(bytes(16 * MIB))
    pair.settle()
    after = pair.client.stats()
    sent = sum(path.bytes_sent for path in after.paths) - sum(p.bytes_sent for p in before.paths)
    assert (after.paths[5].bytes_sent - before.paths[5].bytes_sent) / sent < 1 / 16


# --- a peer that stands still ------------------------------------------------------------------


@pytest.mark.parametrize("config", [FABRIC, Config()], ids=["fabric", "default"])
def test_a_peer_that_stands_still_for_a_second_has_nothing_repeated_to_it(config: Config) -> None:
    """A process that is not scheduled silences all its paths at once: that is no loss."""
    pair = Pair(paths=4, config=config, latency=TRIP / 2)
    pair.client.send(bytes(4 * MIB))
    pair.settle()
    message = random.Random(5).randbytes(24 * MIB)
    pair.client.send(message)
    pair.advance(until=lambda: pair.client.in_flight > 2)
    answers = hold(pair, "server")
    pair.run(1.0)
    let_go(pair, answers, "client")
    assert pair.deliver() == message
    pair.settle()
    stats = pair.client.stats()
    assert stats.retransmissions <= 4, "not more than one a path"
    assert stats.spurious_retransmissions <= stats.retransmissions
    assert pair.server.dropped("replay") <= 4
    assert not any(path.suspected for path in stats.paths)


def test_the_peer_of_an_only_path_has_a_few_packets_repeated_to_it() -> None:
    """There is nothing else to ask over: the oldest packet is the probe, ever more rarely."""
    pair = Pair(paths=1, config=Config(), latency=TRIP / 2)
    pair.client.send(bytes(4 * MIB))
    pair.settle()
    pair.client.send(bytes(24 * MIB))
    pair.advance(until=lambda: pair.client.in_flight > 2)
    answers = hold(pair, "server")
    pair.run(1.0)
    assert pair.client.stats().retransmissions < 12
    let_go(pair, answers, "client")
    pair.settle()
    assert pair.client.stats().retransmissions < 16


# --- many paths ----------------------------------------------------------------------------


@pytest.mark.parametrize("paths", [128, 256])
def test_as_many_paths_as_there_may_be_work(paths: int) -> None:
    pair = fabric(paths)
    pair.run(1.0)
    for side in pair.sides:
        assert [path.state for path in side.stats().paths] == ["usable"] * paths
    before = pair.client.stats()
    message = random.Random(paths).randbytes(24 * MIB)
    pair.client.send(message)
    pair.server.send(message)
    pair.settle()
    assert pair.server.payloads[-1] == pair.client.payloads[-1] == message
    after = pair.client.stats()
    sent = [
        new.bytes_sent - old.bytes_sent for new, old in zip(after.paths, before.paths, strict=True)
    ]
    assert min(sent) > 0.3 * sum(sent) / paths, "each carries its share"
    assert max(sent) < 2.5 * sum(sent) / paths
    assert after.retransmissions == after.spurious_retransmissions
    assert sum(after.drops.values()) == 0
