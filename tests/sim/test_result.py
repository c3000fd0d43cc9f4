"""What a run found, as values: arithmetic on them."""

from __future__ import annotations

import pytest

from transport.sim import Flow, FlowResult, PortResult, Result, Series


def flow(name, end, start=0.5):
    return FlowResult(
        flow=Flow("a", "b", 10, start=start),
        name=name,
        start=start,
        end=end,
        received=1,
        delivered=0,
    )


def result(*flows, **ports):
    return Result(
        policy="p",
        seed=1,
        flows=flows,
        ports={
            name: PortResult(packets=1, bytes=1, peak_queue=1, drops=drops)
            for name, drops in ports.items()
        },
        links={},
        strays={},
        series=None,
        packets_sent=0,
        packets_duplicated=0,
        packets_delivered=0,
        packets_dropped=0,
        packets_in_network=0,
        setup=0.0,
        elapsed=1.0,
        events=0,
        digest="",
    )


def test_durations_count_from_each_start():
    done = result(flow("x", 2.0), flow("y", 1.25, start=1.0))
    assert done.durations == (0.25, 1.5)
    assert done.completion == 2.0
    assert done.unfinished == ()


def test_what_is_left_has_no_end():
    left = result(flow("x", None), flow("y", 1.0))
    assert left.durations == (0.5,)
    assert left.completion is None
    assert left.unfinished == ("x",)


def test_drops_are_summed_over_ports():
    assert result(a={"buffer": 2, "loss": 1}, b={"buffer": 3}, c={}).drops == {
        "buffer": 5,
        "loss": 1,
    }


def test_rates_are_bits_between_samples():
    series = Series(times=(0.0, 0.5, 1.5), queue={}, received={"x": (0, 100, 100)})
    assert series.rates("x") == (1600.0, 0.0)
    with pytest.raises(KeyError):
        series.rates("y")
