"""Packets between sealing and acknowledgement: settled once, repeated as they are, measured."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transport.link.congestion import Delivery, FixedWindow
from transport.link.flight import Flight, Packet
from transport.link.paths import REORDERING, PathState
from transport.link.scheduler import Spray


class Ledger(FixedWindow):
    """A constant window that writes down what it is told."""

    def __init__(self) -> None:
        super().__init__(1 << 20, 1000)
        self.deliveries: list[Delivery] = []
        self.samples: list[tuple[int, float | None]] = []  # path and round trip
        self.lost: list[tuple[int, int, float]] = []  # path, size, when it was sent

    def on_acknowledged(self, path: PathState, size: int, rtt: float | None, now: float) -> None:
        self.samples.append((path.index, rtt))

    def on_delivery(self, delivery: Delivery, now: float) -> None:
        self.deliveries.append(delivery)

    def on_lost(self, path: PathState, size: int, sent_at: float) -> None:
        self.lost.append((path.index, size, sent_at))


def flight_and_paths(count: int = 2) -> tuple[Flight, list[PathState]]:
    flight, paths, _ = watched(count)
    return flight, paths


def watched(count: int = 2) -> tuple[Flight, list[PathState], Ledger]:
    paths = [PathState(index, object(), "", 0.0) for index in range(count)]
    for path in paths:
        path.joined = True
    ledger = Ledger()
    return Flight(ledger, Spray(1000)), paths, ledger


def packet(number: int, *, reliable: bool = True, size: int = 100) -> Packet:
    return Packet(number, bytearray(size), messages=(number,), reliable=reliable)


def repeat(flight: Flight, path: PathState, now: float) -> Packet:
    """Send the next lost packet again."""
    again = flight.next_lost()
    assert again is not None
    flight.lost.popleft()
    flight.sent(again, path, now)
    return again


def test_an_acknowledged_packet_is_settled_once_and_measures_its_path() -> None:
    flight, (path, _), ledger = watched()
    one = packet(5)
    flight.sent(one, path, 1.0)
    assert (len(flight), flight.bytes, path.in_flight_bytes) == (1, 100, 100)
    assert flight.floor(9) == 5
    assert flight.acknowledge([(3, 7)], 1.25) == [one]
    assert flight.acknowledge([(3, 7)], 1.3) == []
    assert (len(flight), flight.bytes, path.in_flight_bytes) == (0, 0, 0)
    assert path.rtt == 0.25
    assert flight.usual == 0.25
    assert ledger.samples == [(0, 0.25)]
    assert flight.highest_acknowledged == 5
    assert flight.floor(9) == 9
    assert one not in flight


def test_numbers_never_sent_and_enormous_ranges_are_harmless() -> None:
    flight, (path, _) = flight_and_paths()
    sent = [packet(number) for number in (10, 20, 30)]
    for each in sent:
        flight.sent(each, path, 0.0)
    top = (1 << 64) - 1
    assert flight.acknowledge([(40, top), (31, 39)], 0.1) == []
    assert flight.acknowledge([(20, top)], 0.1) == [sent[1], sent[2]]
    assert flight.acknowledge([(0, top)], 0.1) == [sent[0]]
    assert flight.highest_acknowledged == 30


# --- repetition ------------------------------------------------------------------------


def test_a_repetition_is_the_same_packet_and_takes_no_sample() -> None:
    flight, (path, other), ledger = watched()
    one = packet(0)
    flight.sent(one, path, 0.0)
    flight.abandon(path)
    assert one.lost_by is path
    assert ledger.lost == [(0, 100, 0.0)]
    assert (path.in_flight_bytes, flight.bytes) == (0, 100), "it still fills the window"
    assert repeat(flight, other, 1.0) is one
    assert (one.transmissions, flight.retransmissions) == (2, 1)
    assert path.retransmissions == 1
    assert flight.bytes == 100
    assert flight.acknowledge([(0, 0)], 1.1) == [one]
    assert path.rtt is other.rtt is None, "either copy may have arrived"
    assert ledger.samples == [(1, None)]


def test_a_packet_acknowledged_while_it_waits_to_be_repeated_is_not() -> None:
    flight, (path, _) = flight_and_paths()
    flight.sent(packet(0), path, 0.0)
    flight.sent(packet(1), path, 0.0)
    flight.abandon(path)
    assert [settled.number for settled in flight.acknowledge([(0, 0)], 0.1)] == [0]
    following = flight.next_lost()
    assert following is not None
    assert following.number == 1
    assert flight.retransmissions == 0
    assert flight.spurious == 0, "nothing was repeated"


def test_an_unreliable_packet_is_given_up_for_good() -> None:
    flight, (path, _) = flight_and_paths()
    flight.sent(packet(0, reliable=False), path, 0.0)
    flight.abandon(path)
    assert flight.next_lost() is None
    assert (len(flight), flight.bytes) == (0, 0)
    assert flight.floor(1) == 1


def test_an_answer_sooner_than_the_repetition_can_cause_shows_it_needless() -> None:
    """RFC 3522 (Eifel), by times: a round trip over the second path takes 0.1 s at least."""
    flight, (path, other) = flight_and_paths()
    for number, one in enumerate((path, other)):
        flight.sent(packet(number), one, 0.0)
    flight.acknowledge([(0, 1)], 0.1)
    flight.sent(packet(2), path, 1.0)
    flight.abandon(path)
    repeat(flight, other, 1.3)
    flight.acknowledge([(2, 2)], 1.35)
    assert flight.spurious == flight.retransmissions == 1
    assert path.reordering == 2 * REORDERING
    assert path.rtt is not None
    assert path.rtt + 4 * path.rtt_variation == pytest.approx(0.35), "so late it was"


def test_an_answer_that_the_repetition_may_have_caused_proves_nothing_needless() -> None:
    flight, (path, other) = flight_and_paths()
    for number, one in enumerate((path, other)):
        flight.sent(packet(number), one, 0.0)
    flight.acknowledge([(0, 1)], 0.1)
    flight.sent(packet(2), path, 1.0)
    path.suspect("silent")
    flight.abandon(path)
    repeat(flight, other, 1.3)
    flight.acknowledge([(2, 2)], 1.4001)
    assert flight.retransmissions == 1
    assert flight.spurious == 0
    assert path.reordering == REORDERING
    assert path.suspected, "nothing shows that it works"
    assert flight.latest_sent == 1.3, "the repetition arrived"


def test_after_the_end_nothing_is_in_flight_on_any_path() -> None:
    flight, paths = flight_and_paths()
    for number in range(6):
        flight.sent(packet(number, reliable=number % 2 == 0), paths[number % 2], 0.0)
    flight.clear()
    for path in paths:
        assert path.in_flight_bytes == 0
        assert path.in_flight == {}
        flight.abandon(path)
    assert flight.next_lost() is None
    assert (len(flight), flight.bytes) == (0, 0)


# --- the delivery rate (draft-ietf-ccwg-bbr 4.1.1) --------------------------------------


def test_the_rate_of_a_steady_flow_is_what_arrives() -> None:
    """A packet of 100 bytes leaves each 10 ms and is acknowledged 50 ms later."""
    flight, (path, _), ledger = watched()
    for tick in range(30):
        now = tick / 100
        if tick >= 5:
            flight.acknowledge([(tick - 5, tick - 5)], now)
        flight.sent(packet(tick), path, now)
    rates = [delivery.rate for delivery in ledger.deliveries[6:]]
    assert rates == pytest.approx([10_000.0] * len(rates))
    assert flight.delivered == 25 * 100
    assert [each.size for each in ledger.deliveries] == [100] * 25
    before = [each.delivered_before for each in ledger.deliveries]
    assert before == [0] * 5 + [100 * count for count in range(1, 21)]


def test_a_burst_is_rated_by_how_long_its_acknowledgement_took() -> None:
    flight, (path, _), ledger = watched()
    for number in range(10):
        flight.sent(packet(number), path, 1.0)
    flight.acknowledge([(0, 9)], 1.1)
    (delivery,) = ledger.deliveries
    assert delivery.rate == pytest.approx(10_000.0)
    assert (delivery.size, delivery.delivered, delivery.delivered_before) == (1000, 1000, 0)


def test_idle_time_is_no_part_of_a_rate() -> None:
    flight, (path, _), ledger = watched()
    flight.sent(packet(0), path, 0.0)
    flight.acknowledge([(0, 0)], 0.1)
    flight.sent(packet(1), path, 500.0)
    flight.acknowledge([(1, 1)], 500.1)
    assert [each.rate for each in ledger.deliveries] == pytest.approx([1000.0, 1000.0])


def test_repeated_packets_give_no_rate() -> None:
    flight, (path, other), ledger = watched()
    flight.sent(packet(0), path, 0.0)
    flight.abandon(path)
    repeat(flight, other, 1.0)
    flight.acknowledge([(0, 0)], 1.2)
    (delivery,) = ledger.deliveries
    assert delivery.rate is None
    assert delivery.size == delivery.delivered == 100


def test_what_leaves_while_the_sender_has_nothing_more_is_marked_as_limited() -> None:
    flight, (path, _), ledger = watched()
    flight.sent(packet(0), path, 0.0)
    flight.nothing_to_send()
    flight.sent(packet(1), path, 0.0)
    flight.acknowledge([(0, 1)], 0.1)
    flight.sent(packet(2), path, 0.1)
    flight.sent(packet(3), path, 0.1)
    flight.acknowledge([(2, 3)], 0.2)
    assert [each.limited for each in ledger.deliveries] == [True, False]


# --- anything in any order -----------------------------------------------------------------


@settings(max_examples=40)
@given(seed=st.integers(0, 1 << 32))
def test_every_packet_is_settled_or_waits_whatever_happens(seed: int) -> None:
    rng = random.Random(seed)
    flight, paths, ledger = watched(3)
    sent: dict[int, Packet] = {}
    settled: set[int] = set()
    given_up: set[int] = set()
    now, number = 0.0, 0
    for _ in range(150):
        now += rng.random() / 10
        action = rng.randrange(6)
        if action <= 1:
            sent[number] = packet(number, reliable=rng.random() < 0.8, size=1 + number % 90)
            flight.sent(sent[number], rng.choice(paths), now)
            number += rng.choice((1, 1, 3))
        elif action == 2 and sent:
            low = rng.randrange(number + 1)
            done = flight.acknowledge([(low, low + rng.randrange(8))], now)
            assert not settled & {each.number for each in done}, f"seed {seed}"
            settled |= {each.number for each in done}
        elif action == 3:
            flying = [each for path in paths for each in path.in_flight.values()]
            if flying:
                flight.give_up(rng.choice(flying))
        elif action == 4:
            if rng.random() < 0.3:
                flight.abandon(rng.choice(paths))
        elif flight.next_lost() is not None:
            repeat(flight, rng.choice(paths), now)
        given_up |= {
            each.number
            for each in sent.values()
            if each not in flight and each.number not in settled
        }
        assert all(not sent[each].reliable for each in given_up)
        waiting = {each: sent[each] for each in sent if each not in settled | given_up}
        assert len(flight) == len(waiting)
        assert flight.bytes == sum(each.size for each in waiting.values())
        assert flight.floor(number) == min(waiting, default=number)
        for path in paths:
            mine = [each for each in waiting.values() if each.path is path]
            assert path.in_flight_bytes == sum(each.size for each in mine)
            assert sorted(path.in_flight) == [each.number for each in mine]
            order = [each.sequence for each in path.in_flight.values()]
            assert order == sorted(order), "in order of sending"
    assert flight.highest_acknowledged == max(settled, default=-1)
    assert flight.delivered == sum(sent[each].size for each in settled)
    assert flight.delivered == sum(each.size for each in ledger.deliveries)
    assert all(each.rate is None or each.rate > 0 for each in ledger.deliveries)
    assert flight.spurious <= flight.retransmissions, f"seed {seed}"


@pytest.mark.parametrize("count", [1, 50])
def test_a_floor_is_the_oldest_that_waits(count: int) -> None:
    flight, (path, _) = flight_and_paths()
    for number in range(count):
        flight.sent(packet(number), path, 0.0)
    for number in range(count):
        assert flight.floor(count) == number
        flight.acknowledge([(number, number)], 0.1)
    assert flight.floor(count) == count
