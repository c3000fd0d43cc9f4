"""Closed forms and what is read off a course over time, against arithmetic by hand."""

from __future__ import annotations

from math import inf, isclose

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.sim.courses import recovered, standstill
from bench.sim.measures import (
    METRICS,
    binned,
    ideal_time,
    jain,
    mean_rate,
    round_trip,
    switch_ports,
    thinned,
    total,
)
from transport.sim import star

rates = st.lists(st.floats(0.001, 1e12), min_size=1, max_size=50)


def test_a_round_trip_is_propagation_twice_and_serialisation_once_a_cable():
    # 8192 + 48 of sealing + 66 of lower layers = 8306 bytes; 0.66448 µs at 100 Gb/s.
    assert isclose(round_trip([(100e9, 1e-6)] * 6, 8192, 66), 6 * 2e-6 + 6 * 0.66448e-6)


def test_the_ideal_is_payload_over_bandwidth_and_a_round_trip():
    assert isclose(ideal_time(2_000_000, 100e9, 16e-6), 176e-6)
    assert isclose(ideal_time(15 * 2_000_000, 100e9, 0.0), 2400e-6)


def test_jain_is_one_for_equal_rates_and_one_over_n_for_a_monopoly():
    assert jain([3.0, 3.0, 3.0]) == 1.0
    assert jain([5.0, 0.0, 0.0, 0.0]) == 0.25
    assert isclose(jain([1.0, 2.0]), 0.9)
    assert jain([0.0, 0.0]) == 0.0


@given(rates)
def test_jain_lies_between_one_over_n_and_one(values):
    assert 1 / len(values) - 1e-9 <= jain(values) <= 1 + 1e-9


@given(rates, st.floats(0.1, 1000))
def test_jain_does_not_depend_on_the_unit(values, factor):
    assert isclose(jain(values), jain([factor * value for value in values]), rel_tol=1e-6)


def test_rates_are_differences_of_a_running_sum():
    times, so_far = [0.0, 1.0, 2.0, 3.0, 4.0], [0.0, 10.0, 10.0, 40.0, 80.0]
    assert binned(times, so_far, 2.0, 0.0, 4.0) == [40.0, 280.0]
    assert binned(times, so_far, 1.0, 0.5, 2.5) == [40.0, 120.0], "between samples, in proportion"
    assert mean_rate(times, so_far, 2.0, 4.0) == 280.0
    assert mean_rate(times, so_far, 2.0, 6.0) == 140.0, "nothing came after the last sample"
    assert mean_rate(times, so_far, 2.0, 2.0) == 0.0


def test_running_sums_add_up_over_flows():
    assert total({"a": [0, 1, 2], "b": [5, 5, 6]}) == [5.0, 6.0, 8.0]


def course(*steps: tuple[int, float]) -> tuple[list[float], list[float]]:
    """Samples a second apart: so many seconds at so many bits/s, one after another."""
    times, so_far = [0.0], [0.0]
    for seconds, rate in steps:
        for _ in range(seconds):
            times.append(times[-1] + 1)
            so_far.append(so_far[-1] + rate / 8)
    return times, so_far


@pytest.mark.parametrize(
    ("steps", "seconds"),
    [
        ([(5, 100.0), (15, 95.0)], 0.0),  # never below 90
        ([(5, 100.0), (3, 0.0), (12, 95.0)], 3.0),
        ([(5, 100.0), (1, 92.0), (3, 20.0), (11, 95.0)], 4.0),  # falls a while after the fault
        ([(5, 100.0), (3, 20.0), (12, 80.0)], inf),
    ],
)
def test_recovery_is_counted_from_the_fault_and_behind_the_dip(steps, seconds):
    assert recovered(*course(*steps), 5.0, 1.0, 90.0, 20.0) == seconds


def test_there_is_no_recovery_without_time_for_it():
    assert recovered(*course((20, 100.0)), 5.0, 1.0, 90.0, 5.5) == inf


def test_a_standstill_is_the_longest_time_without_a_byte():
    assert standstill(*course((3, 8.0), (4, 0.0), (2, 8.0), (1, 0.0), (2, 8.0)), 12.0) == 4.0
    assert standstill(*course((3, 8.0), (1, 0.0), (2, 8.0), (5, 0.0)), 11.0) == 5.0
    assert standstill(*course((3, 8.0), (9, 0.0)), 4.0) == 1.0, "after its end a flow may rest"


def test_a_thinned_curve_keeps_every_corner():
    curve = thinned("queue", range(8), [0, 0, 0, 5, 5, 5, 0, 0])
    assert curve.times == (0, 2, 3, 5, 6, 7)
    assert curve.values == (0.0, 0.0, 5.0, 5.0, 0.0, 0.0)
    assert thinned("queue", [], []).values == ()


def test_only_switches_have_queues_to_speak_of():
    assert switch_ports(star(2)) == ("s0>h0", "s0>h1")


def test_every_metric_has_a_title_of_its_own():
    titles = [metric.title for metric in METRICS.values()]
    assert len(set(titles)) == len(titles)
