"""When an acknowledgement is owed, and what it says."""

from __future__ import annotations

from transport.crypto.replay import WINDOW
from transport.link.acknowledgement import (
    BYTES_AT_ONCE,
    NEVER,
    PACKETS_AT_ONCE,
    RANGES_KEPT,
    Acknowledgements,
)
from transport.wire import frames


def said(acknowledgements: Acknowledgements, floor: int = 0) -> frames.Ack:
    (frame,) = frames.decode(memoryview(acknowledgements.frame(floor)))
    assert isinstance(frame, frames.Ack)
    return frame


def test_nothing_is_owed_before_anything_came() -> None:
    fresh = Acknowledgements(0.001)
    assert fresh.due == NEVER
    assert not fresh.now_due
    assert said(fresh, 7) == frames.Ack(7, [])


def test_one_small_packet_waits_for_company_and_no_longer() -> None:
    some = Acknowledgements(0.001)
    some.received(0)
    some.owe(100, 5.0)
    some.owe(100, 5.0005)
    assert some.due == 5.001
    assert not some.now_due
    assert said(some, 3) == frames.Ack(3, [(0, 0)])
    assert some.due == NEVER


def test_enough_packets_or_bytes_are_acknowledged_at_once() -> None:
    for count, size in ((PACKETS_AT_ONCE, 1), (2, -(-BYTES_AT_ONCE // 2))):
        some = Acknowledgements(0.001)
        for index in range(count):
            assert not some.now_due
            some.owe(size, 1.0 + index)
        assert some.now_due
        some.frame(0)
        assert not some.now_due
        some.owe(size, 9.0)
        assert not some.now_due, "the count begins anew"


def test_a_repeated_packet_is_answered_no_more_often_than_the_delay() -> None:
    some = Acknowledgements(0.001)
    for _ in range(1000):
        some.owe_again(3.0)
    assert some.due == 3.001
    assert not some.now_due
    some.owe_again(2.0)
    assert some.due == 2.001


def test_ranges_are_told_highest_first_and_forgotten_below_the_floor() -> None:
    some = Acknowledgements(0.001)
    for number in (0, 1, 2, 5, 6, 9):
        some.received(number)
    assert said(some).ranges == [(9, 9), (5, 6), (0, 2)]
    some.forget_below(6)
    assert said(some).ranges == [(9, 9), (6, 6)]


def test_no_more_ranges_are_told_than_a_frame_holds() -> None:
    some = Acknowledgements(0.001)
    for number in range(0, 400, 2):
        some.received(number)
    ranges = said(some).ranges
    assert len(ranges) == frames.MAX_ACK_RANGES
    assert ranges[0] == (398, 398)


def test_what_left_the_replay_window_is_forgotten_however_the_peer_plays() -> None:
    some = Acknowledgements(0.001)
    for number in range(0, 100_000, 2):
        some.received(number)
        if number % 5000 == 0:
            assert len(said(some).ranges) <= RANGES_KEPT + WINDOW // 2
    some.received(200_000)
    assert said(some).ranges[-1][0] >= 100_000 - WINDOW
