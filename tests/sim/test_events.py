"""Virtual time: whole picoseconds, one order of events, no way back."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.errors import UsageError
from transport.sim.events import NEVER, SECOND, Events, picoseconds


@given(st.lists(st.integers(0, 50), max_size=60))
def test_events_happen_in_time_and_then_in_the_order_of_scheduling(times):
    events, happened = Events(), []
    for index, time in enumerate(times):
        events.at(time, lambda now, which: happened.append((now, which)), index)
    events.run(1000)
    assert happened == sorted((time, index) for index, time in enumerate(times))
    assert events.now == 1000
    assert events.count == len(times)


def test_an_event_may_schedule_others_even_for_the_same_instant():
    events, happened = Events(), []

    def first(time, _):
        happened.append(time)
        events.at(time, lambda now, _: happened.append(-now))
        events.at(time + 7, first)

    events.at(10, first)
    events.run(24)
    assert happened == [10, -10, 17, -17, 24, -24]


def test_what_is_due_later_waits():
    events, happened = Events(), []
    events.at(5, lambda now, _: happened.append(now))
    events.run(4)
    assert happened == []
    assert events.now == 4
    events.run(5)
    assert happened == [5]


def test_time_does_not_go_back():
    events = Events()
    events.run(100)
    with pytest.raises(UsageError, match="it is 100 ps, too late for an event at 99 ps"):
        events.at(99, lambda now, _: None)
    events.run(50)
    assert events.now == 100


def test_an_event_can_stop_the_run():
    events, happened = Events(), []

    def stop(time, _):
        happened.append(time)
        events.stopped = True

    events.at(3, stop)
    events.at(4, stop)
    events.run(10)
    assert happened == [3]
    assert events.now == 3


def test_seconds_become_whole_picoseconds():
    assert picoseconds(1.0) == SECOND
    assert picoseconds(1e-12) == 1
    assert picoseconds(0.0000005) == 500_000
    assert picoseconds(float("inf")) == NEVER


@given(st.integers(0, 3600 * SECOND))
def test_links_are_told_the_time_to_a_picosecond_for_an_hour(time):
    assert abs(Fraction(time / SECOND) * SECOND - time) < 1


def test_the_trace_depends_on_when_and_in_which_order():
    def digest(times):
        events = Events()
        for time in times:
            events.at(time, lambda now, _: None)
        events.run(SECOND)
        return events.trace.digest()

    chance = random.Random(4)
    times = [chance.randrange(1000) for _ in range(50)]
    assert digest(times) == digest(times)
    assert digest(times) != digest(times[::-1])
    assert digest(times) != digest(times[:-1])
