"""What a link knows of one path: RFC 6298 estimates, suspicion and trust."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.link.paths import PathState


def path() -> PathState:
    return PathState(2, object(), "somewhere", 5.0)


def test_the_first_sample_sets_the_estimate_as_rfc_6298_says() -> None:
    one = path()
    one.sample(0.2)
    assert one.rtt == one.rtt_min == 0.2
    assert one.rtt_variation == 0.1
    assert one.timeout(0.0, 10.0) == pytest.approx(0.2 + 4 * 0.1)


def test_later_samples_are_smoothed_by_an_eighth_and_a_quarter() -> None:
    one = path()
    one.sample(0.2)
    one.sample(0.1)
    assert one.rtt_variation == pytest.approx(0.75 * 0.1 + 0.25 * 0.1)
    assert one.rtt == pytest.approx(0.875 * 0.2 + 0.125 * 0.1)
    assert one.rtt_min == 0.1


@given(st.lists(st.floats(0.0001, 3.0), min_size=1, max_size=50), st.integers(0, 8))
def test_the_timeout_stays_within_its_bounds(samples: list[float], suspicions: int) -> None:
    one = path()
    for sample in samples:
        one.sample(sample)
    for _ in range(suspicions):
        one.suspect("late")
    assert 0.15 <= one.timeout(0.15, 2.0) <= 2.0
    assert one.rtt_min == min(samples)
    assert one.rtt is not None
    assert min(samples) - 1e-9 <= one.rtt <= max(samples) + 1e-9


def test_before_any_sample_the_timeout_is_half_a_second() -> None:
    assert path().timeout(0.15, 2.0) == 0.5
    assert path().timeout(0.8, 2.0) == 0.8


def test_suspicion_doubles_the_timeout_and_trust_takes_it_back() -> None:
    one = path()
    one.sample(0.1)
    calm = one.timeout(0.01, 100.0)
    for times in (2, 4, 8, 16, 32, 64, 64, 64):
        one.suspect("late")
        assert one.timeout(0.01, 100.0) == pytest.approx(calm * times)
    assert one.suspected
    assert one.stats().last_failure == "late"
    one.trust()
    assert not one.suspected
    assert one.timeout(0.01, 100.0) == pytest.approx(calm)


def test_a_path_is_usable_when_it_is_up_and_proven() -> None:
    one = path()
    states = []
    for up, joined in ((True, False), (True, True), (False, True), (False, False)):
        one.up, one.joined = up, joined
        states.append((one.usable, one.stats().state))
    assert states == [
        (False, "joining"),
        (True, "usable"),
        (False, "down"),
        (False, "down"),
    ]


def test_stats_are_a_snapshot() -> None:
    one = path()
    before = one.stats()
    one.packets_sent = 5
    assert (before.index, before.address, before.packets_sent) == (2, "somewhere", 0)
