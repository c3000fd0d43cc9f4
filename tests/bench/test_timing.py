"""Interleaving, medians and ratios."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import BenchError
from bench.timing import Result, Run, Sample, Summary, Task, interleave, ratios, rotated, summarise

TASK = Task(measurement="one-way", nbytes=64, unit="bytes/s", better="higher")
OTHER = Task(measurement="round-trip", nbytes=64, unit="s", better="lower")

positive = st.floats(min_value=1e-6, max_value=1e12)


@given(st.lists(st.text(), unique=True), st.integers(0, 100))
def test_every_round_has_every_peer_once(names, round_number):
    assert sorted(rotated(names, round_number)) == sorted(names)


@given(st.lists(st.text(), unique=True, min_size=1))
def test_every_peer_begins_once_in_as_many_rounds_as_there_are_peers(names):
    first = [rotated(names, number)[0] for number in range(len(names))]
    assert first == names


def test_peers_are_interleaved_within_a_round_and_rotate_between_rounds():
    calls = []

    def measure(name, task):
        calls.append((task.measurement, name))
        return Sample(value=1.0)

    interleave(("a", "b", "c"), (TASK, OTHER), 2, measure)
    assert calls == [
        ("one-way", "a"),
        ("one-way", "b"),
        ("one-way", "c"),
        ("round-trip", "a"),
        ("round-trip", "b"),
        ("round-trip", "c"),
        ("one-way", "b"),
        ("one-way", "c"),
        ("one-way", "a"),
        ("round-trip", "b"),
        ("round-trip", "c"),
        ("round-trip", "a"),
    ]


def test_values_keep_the_order_of_the_rounds():
    counts = {"a": 0, "b": 100}

    def measure(name, task):
        counts[name] += 1
        return Sample(value=float(counts[name]))

    run = interleave(("a", "b"), (TASK,), 3, measure)
    assert run.results[0].values == {"a": (1.0, 2.0, 3.0), "b": (101.0, 102.0, 103.0)}
    assert run.failures == {}


def test_tails_are_kept_where_there_are_some():
    def measure(name, task):
        return Sample(value=1.0, p99=3.0 if name == "a" else None)

    (result,) = interleave(("a", "b"), (TASK,), 2, measure).results
    assert result.p99 == {"a": (3.0, 3.0)}
    assert set(result.values) == {"a", "b"}


def test_a_result_is_found_by_what_was_measured():
    run = interleave(("a",), (TASK, OTHER), 1, lambda name, task: Sample(value=1.0))
    found = run.find("round-trip", 64)
    assert found is not None
    assert found.task is OTHER
    assert run.find("round-trip", 65) is None
    assert Run().find("one-way", 64) is None


def test_a_peer_that_fails_leaves_the_run_with_its_reason():
    calls = []

    def measure(name, task):
        calls.append(name)
        if name == "b" and calls.count("b") == 2:
            raise BenchError("cable cut")
        return Sample(value=1.0)

    run = interleave(("a", "b"), (TASK,), 4, measure)
    assert run.results[0].values == {"a": (1.0, 1.0, 1.0, 1.0)}
    assert "cable cut" in run.failures["b"]
    assert calls.count("b") == 2


def test_a_peer_without_a_measurement_is_not_asked_for_it():
    run = interleave(
        ("a", "b"),
        (TASK, OTHER),
        1,
        lambda name, task: Sample(value=1.0),
        takes_part=lambda name, task: name == "a" or task is TASK,
    )
    assert set(run.results[0].values) == {"a", "b"}
    assert set(run.results[1].values) == {"a"}


def test_rounds_are_announced():
    announced = []
    interleave(("a",), (TASK,), 3, lambda name, task: Sample(value=1.0), progress=announced.append)
    assert announced == [0, 1, 2]


def test_a_run_without_rounds_is_refused():
    with pytest.raises(BenchError, match="not 0"):
        interleave(("a",), (TASK,), 0, lambda name, task: Sample(value=1.0))


def test_summary():
    assert summarise([3.0, 1.0, 10.0]) == Summary(median=3.0, min=1.0, max=10.0)
    assert summarise([1.0, 3.0]).median == 2.0
    with pytest.raises(BenchError):
        summarise([])


@given(st.lists(positive, min_size=1))
def test_the_median_lies_between_the_ends(values):
    summary = summarise(values)
    assert summary.min <= summary.median <= summary.max


def test_ratios_compare_the_same_round():
    # A machine that slows down tenfold between rounds leaves the ratio alone.
    assert ratios((8.0, 0.8), (4.0, 0.4)) == (2.0, 2.0)
    with pytest.raises(BenchError, match="2 rounds"):
        ratios((1.0, 2.0), (1.0,))


def test_the_ratio_of_a_result_is_the_median_of_the_ratios():
    result = Result(task=TASK, values={"ours": (2.0, 9.0, 4.0), "theirs": (1.0, 3.0, 1.0)})
    assert result.ratio("ours", "theirs") == Summary(median=3.0, min=2.0, max=4.0)
    assert result.summary("ours").median == 4.0
