"""Packets between sealing and acknowledgement: loss, repetition, and nothing twice."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transport.link.congestion import FixedWindow
from transport.link.flight import REORDERING, Flight, Packet
from transport.link.paths import PathState

MINIMUM, MAXIMUM = 0.15, 2.0


def flight_and_paths(count: int = 2) -> tuple[Flight, list[PathState]]:
    paths = [PathState(index, object(), "", 0.0) for index in range(count)]
    for path in paths:
        path.joined = True
    return Flight(FixedWindow(1 << 20, 1000)), paths


def packet(number: int, *, reliable: bool = True, size: int = 100) -> Packet:
    return Packet(number, bytearray(size), slot=None, messages=(number,), reliable=reliable)


def test_an_acknowledged_packet_is_settled_once_and_measures_its_path() -> None:
    flight, (path, _) = flight_and_paths()
    one = packet(5)
    flight.sent(one, path, 1.0)
    assert (len(flight), flight.bytes, path.in_flight_bytes) == (1, 100, 100)
    assert flight.floor(9) == 5
    assert flight.acknowledge([(3, 7)], 1.25) == [one]
    assert flight.acknowledge([(3, 7)], 1.3) == []
    assert (len(flight), flight.bytes, path.in_flight_bytes) == (0, 0, 0)
    assert path.rtt == 0.25
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


def test_packets_overtaken_by_far_on_their_own_path_are_lost() -> None:
    flight, (path, other) = flight_and_paths()
    for number in range(0, 20, 2):
        flight.sent(packet(number), path, 0.0)
        flight.sent(packet(number + 1), other, 0.0)
    flight.acknowledge([(10, 10)], 0.1)  # the sixth of its path
    flight.detect_losses(path)
    flight.detect_losses(other)
    assert [lost.number for lost in flight.lost] == [0, 2, 4]
    assert len(flight.lost) == 6 - REORDERING
    assert path.retransmissions == 3
    assert not path.suspected, "a gap is no silence"


def test_a_packet_that_waited_too_long_is_lost_and_its_path_suspected() -> None:
    flight, (path, _) = flight_and_paths()
    flight.sent(packet(0), path, 1.0)
    flight.sent(packet(1), path, 1.3)
    deadline = flight.deadline(path, MINIMUM, MAXIMUM)
    assert deadline == 1.5
    flight.expire(path, 1.49, MINIMUM, MAXIMUM)
    assert list(flight.lost) == []
    flight.expire(path, deadline, MINIMUM, MAXIMUM)
    assert [lost.number for lost in flight.lost] == [0]
    assert path.suspected
    assert path.last_failure == "1 packets unacknowledged in time"
    assert flight.next_lost() is flight.lost[0]


@given(sent_at=st.floats(0, 1e6), rtt=st.floats(1e-6, 3.0), suspicions=st.integers(0, 5))
def test_at_its_deadline_a_packet_always_expires(
    sent_at: float, rtt: float, suspicions: int
) -> None:
    """Else a link would be called at its own deadline for ever, and do nothing."""
    flight, (path, _) = flight_and_paths()
    path.sample(rtt)
    for _ in range(suspicions):
        path.suspect("late")
    flight.sent(packet(0), path, sent_at)
    deadline = flight.deadline(path, MINIMUM, MAXIMUM)
    assert deadline is not None
    flight.expire(path, deadline, MINIMUM, MAXIMUM)
    assert flight.deadline(path, MINIMUM, MAXIMUM) is None


def test_a_repetition_is_the_same_packet_and_takes_no_sample() -> None:
    flight, (path, other) = flight_and_paths()
    one = packet(0)
    flight.sent(one, path, 0.0)
    flight.abandon(path)
    assert one.lost_by is path
    assert (path.in_flight_bytes, flight.bytes) == (0, 100), "it still fills the window"
    assert flight.next_lost() is one
    flight.lost.popleft()
    flight.sent(one, other, 1.0)
    assert (one.transmissions, flight.retransmissions) == (2, 1)
    assert flight.bytes == 100
    assert flight.acknowledge([(0, 0)], 1.1) == [one]
    assert path.rtt is other.rtt is None, "either copy may have arrived"


def test_a_packet_acknowledged_while_it_waits_to_be_repeated_is_not() -> None:
    flight, (path, _) = flight_and_paths()
    flight.sent(packet(0), path, 0.0)
    flight.sent(packet(1), path, 0.0)
    flight.abandon(path)
    assert [settled.number for settled in flight.acknowledge([(0, 0)], 0.1)] == [0]
    following = flight.next_lost()
    assert following is not None
    assert following.number == 1


def test_an_unreliable_packet_is_given_up_for_good() -> None:
    flight, (path, _) = flight_and_paths()
    flight.sent(packet(0, reliable=False), path, 0.0)
    flight.abandon(path)
    assert flight.next_lost() is None
    assert (len(flight), flight.bytes) == (0, 0)
    assert flight.floor(1) == 1


def test_after_the_end_nothing_is_in_flight_on_any_path() -> None:
    flight, paths = flight_and_paths()
    for number in range(6):
        flight.sent(packet(number, reliable=number % 2 == 0), paths[number % 2], 0.0)
    flight.clear()
    for path in paths:
        assert path.in_flight_bytes == 0
        flight.abandon(path)
        assert flight.deadline(path, MINIMUM, MAXIMUM) is None
    assert flight.next_lost() is None
    assert (len(flight), flight.bytes) == (0, 0)


@settings(max_examples=40)
@given(seed=st.integers(0, 1 << 32))
def test_every_packet_is_settled_or_waits_whatever_happens(seed: int) -> None:
    rng = random.Random(seed)
    flight, paths = flight_and_paths(3)
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
            flight.detect_losses(rng.choice(paths))
        elif action == 4:
            flight.expire(rng.choice(paths), now, MINIMUM, MAXIMUM)
        else:
            again = flight.next_lost()
            if again is not None:
                flight.lost.popleft()
                flight.sent(again, rng.choice(paths), now)
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
    assert flight.highest_acknowledged == max(settled, default=-1)


@pytest.mark.parametrize("count", [1, 50])
def test_a_floor_is_the_oldest_that_waits(count: int) -> None:
    flight, (path, _) = flight_and_paths()
    for number in range(count):
        flight.sent(packet(number), path, 0.0)
    for number in range(count):
        assert flight.floor(count) == number
        flight.acknowledge([(number, number)], 0.1)
    assert flight.floor(count) == count
