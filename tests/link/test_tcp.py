"""The TCP-like control: one hashed path, and the windows of RFC 5681 and RFC 9438."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.link.congestion import CongestionController, Delivery
from transport.link.paths import PathState
from transport.link.scheduler import Scheduler
from transport.link.tcp import CubicWindow, HashedPath, LossWindow

SEGMENT = 1000
RTT = 0.1
MANY = 10**9


def some_paths(count: int) -> list[PathState]:
    made = [PathState(index, object(), "", 0.0) for index in range(count)]
    for path in made:
        path.joined = True
    return made


class Sender:
    """Keeps a window full, a round trip at a time, as the flight of a link would report it."""

    def __init__(self, window: LossWindow) -> None:
        self.window = window
        self.path = some_paths(1)[0]
        self.now = 0.0
        self.in_flight: list[float] = []  # when each packet was sent
        self.delivered = 0

    def fill(self) -> None:
        while self.window.admits(SEGMENT, len(self.in_flight) * SEGMENT, len(self.in_flight)):
            self.window.on_sent(self.path, SEGMENT, self.now)
            self.in_flight.append(self.now)

    def acknowledge(self, *, limited: bool = False) -> None:
        sent_at = self.in_flight.pop(0)
        self.path.sample(self.now - sent_at)
        self.window.on_acknowledged(self.path, SEGMENT, self.now - sent_at, self.now)
        before, self.delivered = self.delivered, self.delivered + SEGMENT
        self.window.on_delivery(Delivery(SEGMENT, self.delivered, before, None, limited), self.now)

    def lose(self) -> None:
        self.window.on_lost(self.path, SEGMENT, self.in_flight.pop(0))

    def round_trip(self, *, lost: int = 0, limited: bool = False) -> int:
        """Send what fits, lose some, have the others acknowledged; the window after it."""
        self.fill()
        self.now += RTT
        for _ in range(lost):
            self.lose()
        for _ in range(len(self.in_flight)):
            self.acknowledge(limited=limited)
        return self.window.window_bytes


def reno(**changes: int) -> LossWindow:
    return LossWindow(SEGMENT, MANY, 10**6, **changes)


# --- one path ----------------------------------------------------------------------------


def test_a_flow_stays_on_its_path_whatever_happens_there() -> None:
    scheduler: Scheduler = HashedPath(b"a>b")
    some = some_paths(16)
    mine = scheduler.choose(some, 100, 0.0)
    assert mine is not None
    mine.in_flight_bytes = 10**9
    mine.suspect("late")
    scheduler.on_lost(mine, 0.5)
    scheduler.on_acknowledged(some[0], 1e-6, 0.6)
    assert scheduler.choose(some, 100, 1.0, avoid=mine) is mine


def test_it_moves_where_its_path_is_unusable_and_returns() -> None:
    scheduler = HashedPath(b"a>b")
    some = some_paths(16)
    mine = scheduler.choose(some, 100, 0.0)
    assert mine is not None
    mine.up = False
    other = scheduler.choose(some, 100, 0.0)
    assert other is not mine
    mine.up = True
    assert scheduler.choose(some, 100, 0.0) is mine


def test_without_a_usable_path_there_is_none() -> None:
    some = some_paths(2)
    for path in some:
        path.up = False
    assert HashedPath().choose(some, 100, 0.0) is None
    assert HashedPath().choose([], 100, 0.0) is None


def test_flows_are_spread_over_the_paths_and_the_hash_is_the_same_in_every_process() -> None:
    some = some_paths(16)
    taken = []
    for number in range(64):
        chosen = HashedPath(b"flow %d" % number).choose(some, 100, 0.0)
        assert chosen is not None
        taken.append(chosen.index)
    assert len(set(taken)) == 16
    assert taken[:6] == [9, 14, 15, 10, 10, 7]


# --- RFC 5681 and 6582 ---------------------------------------------------------------------


def test_the_window_begins_with_ten_segments_and_doubles() -> None:
    window: CongestionController = reno()
    assert window.window_bytes == 10 * SEGMENT
    sender = Sender(reno())
    assert [sender.round_trip() for _ in range(4)] == [n * SEGMENT for n in (20, 40, 80, 160)]


def test_after_a_loss_half_remains_and_a_segment_is_added_for_each_window() -> None:
    sender = Sender(reno())
    for _ in range(3):
        sender.round_trip()
    assert sender.round_trip(lost=1) == 40 * SEGMENT
    assert sender.window.recovering, "nothing sent since was acknowledged"
    grown = [sender.round_trip() / SEGMENT for _ in range(5)]
    assert not sender.window.recovering
    assert grown == pytest.approx([41, 42, 43, 44, 45], abs=0.2)


def test_losses_of_one_window_halve_it_once() -> None:
    one, many = Sender(reno()), Sender(reno())
    for sender in (one, many):
        sender.round_trip()
    assert one.round_trip(lost=1) == many.round_trip(lost=10) == 10 * SEGMENT
    assert many.round_trip(lost=1) == 5 * SEGMENT, "a loss after it halves again"


def test_what_is_lost_makes_room_for_its_repetition() -> None:
    sender = Sender(reno())
    sender.fill()
    assert not sender.window.admits(SEGMENT, 10 * SEGMENT, 10)
    sender.now += RTT
    for _ in range(6):
        sender.lose()
    # Ten were outstanding, so five may be; four are. The link still holds all ten.
    assert sender.window.admits(SEGMENT, 10 * SEGMENT, 10)
    sender.window.on_sent(sender.path, SEGMENT, sender.now)
    assert not sender.window.admits(SEGMENT, 10 * SEGMENT, 10)


def test_the_threshold_is_never_below_two_segments() -> None:
    sender = Sender(reno(initial_segments=1))
    assert sender.round_trip(lost=1) == 2 * SEGMENT


def test_after_silence_one_segment_is_left_and_the_window_doubles_to_the_threshold() -> None:
    sender = Sender(reno())
    for _ in range(2):
        sender.round_trip()
    sender.fill()
    sender.now += 0.2
    sender.window.on_silence(sender.now)
    assert sender.window.window_bytes == SEGMENT
    assert sender.window.threshold_bytes == 20 * SEGMENT
    sender.now += 0.4
    sender.window.on_silence(sender.now)
    assert sender.window.threshold_bytes == 20 * SEGMENT, "it falls with the first time-out only"
    for _ in range(40):
        sender.lose()
    assert sender.window.window_bytes == SEGMENT, "these losses were answered"
    grown = [sender.round_trip() / SEGMENT for _ in range(7)]
    assert grown == pytest.approx([2, 4, 8, 16, 20.6, 21.5, 22.5], abs=0.1)


def test_a_sender_with_little_to_send_does_not_grow_its_window() -> None:
    sender = Sender(reno())
    assert [sender.round_trip(limited=True) for _ in range(5)] == [10 * SEGMENT] * 5


def test_the_limits_of_the_host_hold() -> None:
    sender = Sender(LossWindow(SEGMENT, 25 * SEGMENT, 10**6))
    assert [sender.round_trip() for _ in range(3)] == [n * SEGMENT for n in (20, 25, 25)]
    few = LossWindow(SEGMENT, MANY, 3)
    few.on_sent(some_paths(1)[0], SEGMENT, 0.0)
    assert few.admits(SEGMENT, SEGMENT, 2)
    assert not few.admits(SEGMENT, SEGMENT, 3)


# --- RFC 9438 ------------------------------------------------------------------------------


def test_cubic_keeps_seven_tenths_and_is_back_after_k_seconds() -> None:
    sender = Sender(CubicWindow(SEGMENT, MANY, 10**6))
    while sender.round_trip() < 640 * SEGMENT:
        pass
    assert sender.round_trip(lost=1) == pytest.approx(448 * SEGMENT)
    # K = cbrt(640 · 0.3 / 0.4) = 7.8 s; the curve is flat around the old window.
    windows = []
    for _ in range(130):
        sender.round_trip()
        windows.append(sender.window.window_bytes / SEGMENT)
    assert windows == sorted(windows)
    at_plateau = windows[78]
    assert at_plateau == pytest.approx(640, rel=0.01)
    assert windows[88] - at_plateau < 0.1 * (at_plateau - windows[10])
    assert windows[129] > 1.05 * at_plateau


def test_cubic_is_no_slower_than_reno_where_windows_are_small() -> None:
    sender = Sender(CubicWindow(SEGMENT, MANY, 10**6))
    sender.round_trip()
    sender.round_trip(lost=1)
    before = sender.window.window_bytes
    for _ in range(20):
        sender.round_trip()
    # RFC 9438 4.3: 3 · 0.3 / 1.7 of a segment for each round trip until W_max, then a whole one.
    assert sender.window.window_bytes - before > 20 * 0.5 * SEGMENT


def test_cubic_leaves_more_to_others_when_it_lost_ground() -> None:
    sender = Sender(CubicWindow(SEGMENT, MANY, 10**6))
    for _ in range(4):
        sender.round_trip()
    sender.round_trip(lost=1)
    sender.round_trip(lost=1)
    sender.round_trip(lost=1)
    assert sender.window.window_bytes == pytest.approx(160 * 0.7**3 * SEGMENT, rel=0.02)
    settled = [sender.round_trip() for _ in range(5)]
    assert max(settled) < 160 * 0.7**2 * SEGMENT


# --- any course of events ------------------------------------------------------------------

events = st.lists(st.sampled_from(["send", "acknowledge", "lose", "silence"]), max_size=300)


@given(events, st.sampled_from([LossWindow, CubicWindow]))
def test_the_window_stays_between_one_segment_and_the_limit(
    course: list[str], kind: type[LossWindow]
) -> None:
    sender = Sender(kind(SEGMENT, 50 * SEGMENT, 1000))
    for event in course:
        sender.now += 0.01
        if event == "send":
            sender.fill()
        elif event == "silence":
            sender.window.on_silence(sender.now)
        elif sender.in_flight:
            sender.acknowledge() if event == "acknowledge" else sender.lose()
        assert SEGMENT <= sender.window.window_bytes <= 50 * SEGMENT
        assert sender.window.admits(SEGMENT, 0, 0) or sender.in_flight
    sender.fill()
    assert sender.in_flight, "it can always go on"
