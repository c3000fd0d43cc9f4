"""What a link knows of one path: RFC 6298 estimates, patience, suspicion and trust."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.link.paths import (
    MAX_BACKOFF,
    MAX_REORDERING,
    REORDERING,
    UNMEASURED,
    PathState,
)


def path() -> PathState:
    return PathState(2, object(), "somewhere", 5.0)


def test_the_first_sample_sets_the_estimate_as_rfc_6298_says() -> None:
    one = path()
    one.sample(0.2)
    assert one.rtt == one.rtt_min == 0.2
    assert one.rtt_variation == 0.1
    assert one.timeout(0.0, 0.0, 0.0, 10.0) == pytest.approx(0.2 + 4 * 0.1)


def test_later_samples_are_smoothed_by_an_eighth_and_a_quarter() -> None:
    one = path()
    one.sample(0.2)
    one.sample(0.1)
    assert one.rtt_variation == pytest.approx(0.75 * 0.1 + 0.25 * 0.1)
    assert one.rtt == pytest.approx(0.875 * 0.2 + 0.125 * 0.1)
    assert one.rtt_min == 0.1


def test_the_timeout_is_that_of_rfc_9002_and_of_what_is_usual_on_the_link() -> None:
    one = path()
    for _ in range(200):
        one.sample(0.1)
    assert one.timeout(0.0, 0.003, 0.02, 10.0) == pytest.approx(0.1 + 0.003 + 0.02)
    assert one.timeout(0.4, 0.003, 0.02, 10.0) == pytest.approx(0.4 + 0.003 + 0.02)
    assert one.timeout(0.4, 0.003, 0.02, 0.2) == 0.2


@given(
    st.lists(st.floats(1e-7, 3.0), min_size=1, max_size=50),
    st.floats(0.0, 3.0),
    st.floats(1e-6, 0.2),
    st.floats(1e-6, 0.2),
)
def test_the_timeout_stays_within_its_bounds(
    samples: list[float], usual: float, slack: float, delay: float
) -> None:
    one = path()
    for sample in samples:
        one.sample(sample)
    assert one.rtt is not None
    assert one.rtt_min == min(samples)
    assert min(samples) - 1e-9 <= one.rtt <= max(samples) + 1e-9
    timeout = one.timeout(usual, slack, delay, 2.0)
    assert min(max(one.rtt, usual) + slack + delay, 2.0) <= timeout <= 2.0


def test_before_any_sample_the_timeout_follows_the_other_paths_or_is_half_a_second() -> None:
    assert path().timeout(0.0, 0.1, 0.1, 2.0) == UNMEASURED == 0.5
    assert path().timeout(0.0, 0.0, 0.0, 0.3) == 0.3
    assert path().timeout(0.01, 0.003, 0.02, 2.0) == pytest.approx(3 * 0.01 + 0.023)
    assert path().timeout(1.0, 0.003, 0.02, 2.0) == 2.0


def test_suspicion_doubles_the_backoff_and_trust_takes_it_back() -> None:
    one = path()
    one.sample(0.1)
    calm = one.timeout(0.0, 0.01, 0.01, 100.0)
    for times in range(1, 24):
        one.suspect("late")
        assert one.backoff == min(2.0**times, MAX_BACKOFF)
    assert one.suspected
    assert one.stats(of_bytes=0).last_failure == "late"
    assert one.timeout(0.0, 0.01, 0.01, 100.0) == calm, "the backoff is applied on top"
    one.trust()
    assert not one.suspected
    assert one.backoff == 1.0
    assert one.stats(of_bytes=0).last_failure == "late", "for the operator, who looks later"


def test_after_a_failure_the_least_round_trip_is_learnt_anew() -> None:
    one = path()
    for rtt in (0.01, 0.2, 0.2):
        one.sample(rtt)
    one.trust()
    assert one.rtt_min == 0.01, "it had not failed"
    one.suspect("silent")
    one.trust()
    assert one.rtt_min == one.rtt


def test_a_packet_that_was_late_makes_the_path_patient() -> None:
    one = path()
    for _ in range(50):
        one.sample(0.1)
    one.suspect("late")
    assert one.timeout(0.0, 0.0, 0.0, 9.0) < 0.11
    one.was_late(0.5)
    assert one.timeout(0.0, 0.0, 0.0, 9.0) >= 0.5 - 1e-9
    assert one.reordering == 2 * REORDERING
    assert not one.suspected
    for _ in range(10):
        one.was_late(0.2)
    assert one.timeout(0.0, 0.0, 0.0, 9.0) >= 0.5 - 1e-9, "never less patient than before"
    assert one.reordering == MAX_REORDERING


def test_a_path_is_usable_when_it_is_up_and_proven() -> None:
    one = path()
    states = []
    for up, joined in ((True, False), (True, True), (False, True), (False, False)):
        one.up, one.joined = up, joined
        states.append((one.usable, one.stats(of_bytes=0).state))
    assert states == [
        (False, "joining"),
        (True, "usable"),
        (False, "down"),
        (False, "down"),
    ]


def test_stats_are_a_snapshot() -> None:
    one = path()
    before = one.stats(of_bytes=0)
    one.packets_sent = 5
    one.bytes_sent, one.in_flight_bytes = 500, 200
    assert (before.index, before.address, before.packets_sent) == (2, "somewhere", 0)
    assert (before.share, before.in_flight_bytes) == (0.0, 0)
    after = one.stats(of_bytes=2000)
    assert (after.share, after.in_flight_bytes) == (0.25, 200)
