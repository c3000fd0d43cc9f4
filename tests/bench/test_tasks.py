"""What a round measures, and the arithmetic between samples and a round's value."""

from __future__ import annotations

import pytest

from bench.errors import BenchError
from bench.ranks import Round
from bench.tasks import (
    FULL,
    MEASUREMENTS,
    QUICK,
    measure_cipher,
    measure_exchange,
    measure_pair,
    tasks_for,
)
from bench.timing import Sample, Task


class ScriptedPeer:
    """A peer whose times are written down, for the arithmetic around them."""

    def one_way(self, nbytes, repeat, *, batch=1):
        assert nbytes * batch <= max(nbytes, 32 * 2**20)
        return [2.0, 4.0, 100.0][:repeat]

    def round_trip(self, nbytes, count):
        return [float(number) for number in range(count + 1)]

    def message_rate(self, nbytes, count):
        return 5.0

    def waiting(self, seconds):
        return 0.25

    def handshake(self, count):
        return [7.0, 8.0, 90.0]


class ScriptedRanks:
    """Ranks that note what they were asked for."""

    size = 4

    def __init__(self, wrong=0):
        self.wrong = wrong
        self.asked = []

    def measure(self, operation, nbytes, repeat, warm_up):
        self.asked.append((operation, nbytes))
        return Round(seconds=3.0, wrong=self.wrong)


def task(measurement: str, nbytes: int = 64) -> Task:
    return Task(measurement=measurement, nbytes=nbytes, unit="s", better="lower")


def test_a_full_run_has_every_measurement_from_64_bytes_to_256_mebibytes():
    tasks = tasks_for(FULL, MEASUREMENTS)
    assert dict.fromkeys(each.measurement for each in tasks) == dict.fromkeys(MEASUREMENTS)
    sizes = [each.nbytes for each in tasks if each.measurement == "one-way"]
    assert (min(sizes), max(sizes)) == (64, 2**28)
    assert {64, 2**16} < {each.nbytes for each in tasks if each.measurement == "round-trip"}
    lower = {each.measurement for each in tasks if each.better == "lower"}
    assert lower == {"round-trip", "exchange", "waiting", "handshake"}


def test_quick_is_less_than_full():
    assert QUICK.rounds < FULL.rounds
    assert max(QUICK.sizes) < max(FULL.sizes)


@pytest.mark.parametrize(
    ("measurement", "sample"),
    [
        ("one-way", Sample(value=64 / 4.0)),
        ("round-trip", Sample(value=500.0, p99=990.0)),
        ("rate", Sample(value=5.0)),
        ("waiting", Sample(value=0.25)),
        ("handshake", Sample(value=8.0)),
    ],
)
def test_the_value_of_a_round_is_the_median_of_its_samples(measurement, sample):
    assert measure_pair(ScriptedPeer(), task(measurement), FULL) == sample


def test_large_round_trips_are_fewer_and_have_no_tail():
    sample = measure_pair(ScriptedPeer(), task("round-trip", 2**24), FULL)
    assert sample.p99 is None
    assert sample.value < 10


def test_an_exchange_sends_its_size_to_each_rank():
    ranks = ScriptedRanks()
    assert measure_exchange(ranks, task("exchange", 100)) == Sample(value=3.0)
    assert ranks.asked == [("all_to_all", 400)]


def test_an_exchange_of_wrong_elements_has_no_value():
    with pytest.raises(BenchError, match="2 elements"):
        measure_exchange(ScriptedRanks(wrong=2), task("exchange"))


def test_the_cipher_has_a_rate():
    assert measure_cipher(task("cipher", 2**16)).value > 1e7
