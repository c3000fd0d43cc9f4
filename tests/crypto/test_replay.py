"""The replay window against WireGuard's sequence and against a set."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.vectors import vectors
from transport.crypto.replay import (
    MALFORMED,
    REJECT_AFTER,
    REPLAY,
    TOO_OLD,
    WINDOW,
    ReplayWindow,
)
from transport.errors import UsageError


def wireguard() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(vectors("replay/wireguard_rfc6479.json").read_text())
    return document


def test_the_default_window_is_wireguards() -> None:
    # WireGuard counts the distance to the highest number, this class the numbers.
    assert wireguard()["window"] == WINDOW - 1
    assert int(wireguard()["reject_after"]) == REJECT_AFTER


def test_wireguards_sequence() -> None:
    window = ReplayWindow()
    for step, (number, accepted) in enumerate(wireguard()["sequence"]):
        assert window.accept(int(number)) is accepted, f"step {step}: {number}"


def test_wireguards_bulk_sequences() -> None:
    for scenario in wireguard()["bulk"]:
        window = ReplayWindow()
        for op in scenario["ops"]:
            numbers = (
                [op["seq"]] if "seq" in op else range(op["from"], op["to"] + op["step"], op["step"])
            )
            for number in numbers:
                assert window.accept(number) is op["accept"], (scenario["name"], number)


@given(st.lists(st.integers(0, 300)), st.integers(1, 64))
def test_replay_window_agrees_with_a_set(numbers: list[int], size: int) -> None:
    agrees_with_a_set(numbers, size)


@given(
    st.lists(st.integers(0, 2000) | st.integers(0, 2**40) | st.integers(8000, 8400)),
    st.integers(1, 9000) | st.sampled_from([63, 64, 65, 127, 128, 129, 8128, 8129, 8192, 8193]),
)
def test_wide_replay_windows_agree_with_a_set(numbers: list[int], size: int) -> None:
    agrees_with_a_set(numbers, size)


def agrees_with_a_set(numbers: list[int], size: int) -> None:
    window, seen, highest = ReplayWindow(size), set[int](), -1
    for number in numbers:
        fresh = number not in seen and number > highest - size
        assert window.accept(number) is fresh
        if fresh:
            seen.add(number)
            highest = max(highest, number)
        assert window.highest == highest


@pytest.mark.parametrize("size", [1, 2, 63, 64, 65, 66, 128, 129, 8129, 8193])
def test_exactly_size_numbers_are_remembered_at_every_alignment(size: int) -> None:
    window = ReplayWindow(size)
    for highest in range(size + 200, size + 200 + 130):
        window.mark(highest)
        assert window.check(highest) == REPLAY
        assert window.check(highest - size) == TOO_OLD
        if size > 131:
            assert window.check(highest - size + 1) is None


@pytest.mark.parametrize("size", [2, 64, 65, 129, 1000, 8129])
def test_reordered_numbers_stay_fresh_over_many_laps_of_the_ring(size: int) -> None:
    """Each word must be cleared on every lap, or an old number passes for a new one's replay."""
    window = ReplayWindow(size)
    for even in range(0, 4 * size + 1000, 2):
        for number in (even + 1, even):
            assert window.accept(number)
            assert not window.accept(number)


@given(st.lists(st.integers(-130, 130), min_size=20), st.integers(1, 130))
def test_windows_agree_with_a_set_as_numbers_wander_upwards(steps: list[int], size: int) -> None:
    agrees_with_a_set([max(70 * turn + step, 0) for turn, step in enumerate(steps)], size)


def test_check_changes_nothing_and_says_why() -> None:
    window = ReplayWindow(64)
    assert window.check(1_000_000) is None
    assert window.highest == -1
    window.mark(100)
    for _ in range(2):
        assert window.check(100) == REPLAY
        assert window.check(99) is None
        assert window.check(36) == TOO_OLD
        assert window.check(37) is None
        assert window.check(101) is None


def test_numbers_no_sender_may_use_are_refused() -> None:
    window = ReplayWindow(64, limit=1000)
    assert window.check(1000) == MALFORMED
    assert window.check(2**64 - 1) == MALFORMED
    assert not window.accept(1000)
    assert window.check(-1) == TOO_OLD
    assert window.accept(999)
    assert window.check(1000) == MALFORMED


def test_marking_what_is_too_old_changes_nothing() -> None:
    window = ReplayWindow(64)
    window.mark(1000)
    window.mark(1000 - 128)  # would share a word of the ring with 1000
    window.mark(1000 - 64)
    assert [n for n in range(937, 1001) if window.check(n) is not None] == [1000]


@pytest.mark.parametrize(("size", "limit"), [(0, 1), (-1, 1), (1, 0)])
def test_empty_windows_are_refused(size: int, limit: int) -> None:
    with pytest.raises(UsageError):
        ReplayWindow(size, limit=limit)


def test_the_size_is_known() -> None:
    assert ReplayWindow(17).size == 17
    assert ReplayWindow().size == WINDOW == 8129
