"""When a packet counts as lost: on evidence; and what is asked while there is none."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transport.config import Config
from transport.link.congestion import FixedWindow
from transport.link.flight import Flight, Packet
from transport.link.paths import REORDERING, UNMEASURED, PathState
from transport.link.recovery import Recovery
from transport.link.scheduler import Spray

TRIP = 0.1
CONFIG = Config(acknowledge_after=0.001, retransmit_min=0.001, retransmit_max=2.0)
SLOWNESS = CONFIG.acknowledge_after + CONFIG.retransmit_min


class Ledger(FixedWindow):
    """A constant window that writes down whether a loss is its path's own, and silences."""

    def __init__(self) -> None:
        super().__init__(1 << 30, 1 << 20)
        self.lost: list[tuple[int, bool]] = []  # path, and whether it was suspected
        self.silences: list[float] = []

    def on_lost(self, path: PathState, size: int, sent_at: float) -> None:
        self.lost.append((path.index, path.suspected))

    def on_silence(self, now: float) -> None:
        self.silences.append(now)


class Bench:
    """A flight over some paths, and its recovery."""

    def __init__(self, paths: int = 2, config: Config = CONFIG) -> None:
        self.now = 0.0
        self.paths = [PathState(index, object(), "", 0.0) for index in range(paths)]
        for path in self.paths:
            path.joined = True
        self.ledger = Ledger()
        scheduler = Spray(1000)
        self.flight = Flight(self.ledger, scheduler)
        self.recovery = Recovery(config, self.flight, self.ledger, scheduler)
        self._number = -1

    def send(self, path: int, *, reliable: bool = True) -> int:
        """Send a packet over a path; return its number."""
        self._number += 1
        made = Packet(self._number, bytearray(100), messages=(), reliable=reliable)
        self._sent(made, path)
        return self._number

    def _sent(self, packet: Packet, path: int) -> None:
        self.flight.sent(packet, self.paths[path], self.now)
        self.recovery.watch(self.paths[path], self.now)

    def repeat(self, path: int) -> int:
        """Send the next lost packet over a path; return its number."""
        packet = self.flight.next_lost()
        assert packet is not None
        self.flight.lost.popleft()
        self._sent(packet, path)
        return packet.number

    def acknowledge(self, *numbers: int) -> None:
        ranges = [(number, number) for number in sorted(numbers, reverse=True)]
        settled = self.flight.acknowledge(ranges, self.now)
        assert len(settled) == len(numbers)
        self.recovery.on_acknowledged(settled, self.now)

    def expire(self, at: float) -> list[int]:
        """Let time pass; return the paths that are to be asked."""
        assert at >= self.now
        self.now = at
        return [path.index for path in self.recovery.expire(self.now)]

    def wait(self) -> list[int]:
        """Follow the deadlines until something is asked or lost; return the paths to ask."""
        while True:
            due = self.recovery.due
            assert due < float("inf"), "nothing will ever be due"
            asked = self.expire(max(due, self.now))
            if asked or self.flight.next_lost() is not None:
                return asked

    def measure(self, trips: int = 40) -> None:
        """A quiet time: every path answers after a round trip, always the same."""
        for _ in range(trips):
            numbers = [self.send(path.index) for path in self.paths]
            self.now += TRIP
            self.expire(self.now)
            self.acknowledge(*numbers)

    @property
    def lost(self) -> list[int]:
        return [packet.number for packet in self.flight.lost]


def measured(paths: int = 2) -> Bench:
    bench = Bench(paths)
    bench.measure()
    # What is left of the first estimate's variation does not matter below.
    assert bench.recovery.timeout(bench.paths[0]) == pytest.approx(TRIP + SLOWNESS, rel=0.1)
    return bench


# --- the same path --------------------------------------------------------------------------


def test_packets_overtaken_by_far_on_their_own_path_are_lost() -> None:
    bench = measured()
    start = bench.now
    mine, others = [], []
    for _ in range(10):
        mine.append(bench.send(0))
        others.append(bench.send(1))
    bench.now = start + TRIP
    bench.acknowledge(mine[5])
    assert bench.lost == mine[: 5 - REORDERING + 1]
    assert bench.paths[0].retransmissions == 3
    assert bench.paths[1].retransmissions == 0, "paths have no order among each other"
    assert not bench.paths[0].suspected, "a gap is no silence"


def test_a_path_that_reorders_more_is_given_more_room() -> None:
    bench = measured()
    bench.paths[0].reordering = 8
    mine = [bench.send(0) for _ in range(12)]
    bench.now += TRIP
    bench.acknowledge(mine[9])
    assert bench.lost == mine[:2]


# --- across paths ---------------------------------------------------------------------------


def test_what_is_overdue_is_lost_once_something_later_of_another_path_arrived() -> None:
    bench = measured()
    start = bench.now
    silent = [bench.send(0), bench.send(0)]
    bench.now = start + TRIP / 4
    answered = bench.send(1)
    bench.now += TRIP
    bench.acknowledge(answered)
    assert bench.lost == [], "not overdue yet on its own path"
    assert bench.wait() == [], "there is nothing to ask: the evidence is there"
    assert start + TRIP < bench.now <= start + 1.25 * TRIP + SLOWNESS
    assert bench.lost == silent
    assert bench.paths[0].suspected
    assert bench.paths[0].last_failure == "2 packets unacknowledged in time"
    assert not bench.paths[1].suspected


def test_losses_of_a_silent_path_are_reported_as_its_own() -> None:
    """A window must not become smaller because one path of many is dead."""
    bench = measured()
    bench.send(0)
    bench.now += TRIP / 10
    other = bench.send(1)
    bench.now += 1.5 * TRIP
    bench.acknowledge(other)
    bench.expire(bench.now)
    assert bench.ledger.lost == [(0, True)]


def test_what_was_sent_after_the_evidence_is_not_given_up_with_the_rest() -> None:
    bench = measured()
    start = bench.now
    early = bench.send(0)
    bench.now = start + 0.1 * TRIP
    evidence = bench.send(1)
    bench.now = start + 0.2 * TRIP
    late = bench.send(0)
    bench.now = start + 3 * TRIP
    bench.acknowledge(evidence)
    bench.expire(bench.now)
    assert bench.lost == [early]
    assert late in bench.paths[0].in_flight


# --- no evidence ----------------------------------------------------------------------------


def test_a_peer_that_stands_still_has_nothing_repeated_to_it() -> None:
    bench = measured(4)
    sent = [bench.send(number % 4) for number in range(200)]
    start = bench.now
    asked: list[tuple[float, int]] = []
    while bench.recovery.due < start + 5.0:
        for index in bench.expire(bench.recovery.due):
            asked.append((bench.now - start, index))
            bench.send(index, reliable=False)
    assert bench.lost == []
    assert bench.flight.retransmissions == 0
    assert {index for _, index in asked} == set(range(4))
    for path in range(4):
        times = [when for when, index in asked if index == path]
        pauses = [later - earlier for earlier, later in pairwise(times)]
        assert pauses == sorted(pauses), "ever more rarely"
        assert len(times) < 8
        assert max(pauses) <= CONFIG.retransmit_max + 1e-9
    # It goes on as if nothing had been.
    bench.now = start + 5.0
    bench.acknowledge(*sent)
    assert bench.lost == []
    assert not any(path.suspected for path in bench.paths)


def test_the_answer_to_a_probe_is_the_evidence() -> None:
    bench = measured()
    silent = [bench.send(0), bench.send(0)]
    assert bench.wait() == [0]
    assert bench.lost == []
    assert bench.paths[0].suspected, "new packets go elsewhere until it is known"
    probe = bench.send(1, reliable=False)
    bench.now += TRIP
    bench.acknowledge(probe)
    assert bench.lost == silent


def test_an_answer_over_the_path_itself_ends_the_suspicion() -> None:
    bench = measured()
    slow = bench.send(0)
    assert bench.wait() == [0]
    bench.now += TRIP / 2
    bench.acknowledge(slow)
    assert not bench.paths[0].suspected
    assert bench.paths[0].backoff == 1.0
    assert bench.flight.retransmissions == bench.flight.spurious == 0


def test_the_only_path_repeats_its_oldest_packet() -> None:
    bench = measured(1)
    (path,) = bench.paths
    oldest, newer = bench.send(0), bench.send(0)
    assert bench.recovery.only_hope(path, bench.paths)
    assert bench.wait() == [0]
    bench.recovery.repeat_oldest(path, bench.now)
    assert bench.lost == [oldest]
    assert bench.repeat(0) == oldest
    assert list(path.in_flight) == [newer, oldest]


@pytest.mark.parametrize(("joined", "up"), [(False, True), (True, False), (True, True)])
def test_a_path_that_cannot_be_used_is_no_hope(joined: bool, up: bool) -> None:
    bench = measured()
    bench.paths[1].joined, bench.paths[1].up = joined, up
    assert bench.recovery.only_hope(bench.paths[0], bench.paths) is not (joined and up)


def test_with_nothing_in_flight_there_is_nothing_to_repeat() -> None:
    bench = measured(1)
    bench.recovery.repeat_oldest(bench.paths[0], bench.now)
    assert bench.flight.next_lost() is None


def test_a_time_out_with_nothing_acknowledged_is_told_to_the_controller() -> None:
    """TCP's retransmission time-out: what the control collapses its window at (RFC 5681 3.1)."""
    bench = measured(1)
    bench.send(0)
    assert bench.wait() == [0]
    bench.recovery.repeat_oldest(bench.paths[0], bench.now)
    assert bench.ledger.silences == [bench.now]


# --- needless repetitions -------------------------------------------------------------------


def test_a_needless_repetition_makes_the_path_patient() -> None:
    """Eifel: the route over path 0 has become longer, as its late answer shows."""
    bench = measured()
    start = bench.now
    slow = bench.send(0)
    bench.now = start + TRIP / 10
    quick = bench.send(1)
    bench.now = start + 1.5 * TRIP
    bench.acknowledge(quick)
    bench.expire(bench.now)
    assert bench.repeat(1) == slow
    bench.now = start + 2 * TRIP  # half a round trip after the repetition
    bench.acknowledge(slow)
    assert bench.flight.spurious == 1
    assert not bench.paths[0].suspected
    assert bench.recovery.timeout(bench.paths[0]) >= 2 * TRIP
    # The next packet that takes as long is waited for.
    start = bench.now
    slow, quick = bench.send(0), bench.send(1)
    bench.now = start + TRIP
    bench.acknowledge(quick)
    assert bench.expire(start + 2 * TRIP) == []
    bench.acknowledge(slow)
    assert bench.flight.retransmissions == 1


# --- when it wants to be called ---------------------------------------------------------------


def test_a_path_is_looked_at_in_its_own_time_once_it_is_measured() -> None:
    """The first packet waits for half a second; what follows it must not."""
    bench = Bench()
    numbers = [bench.send(path.index) for path in bench.paths]
    assert bench.recovery.due == UNMEASURED
    bench.now = 0.0001
    following = bench.send(0)
    bench.acknowledge(*numbers)
    assert bench.recovery.due < 0.01
    assert bench.wait() == [0]
    assert following in bench.paths[0].in_flight


def test_after_a_long_silence_the_pauses_are_short_again() -> None:
    bench = measured()
    start = bench.now
    first = bench.send(0)
    while bench.recovery.due < start + 4.0:
        bench.expire(bench.recovery.due)
    bench.now = start + 4.0
    second = bench.send(0)
    bench.acknowledge(first)
    assert bench.recovery.due <= bench.now + 30 * TRIP, "not where the backoff had put it"
    assert second in bench.paths[0].in_flight


@given(
    sent_at=st.floats(0, 1e6),
    rtt=st.floats(1e-6, 3.0),
    suspicions=st.integers(0, 12),
    granularity=st.floats(1e-6, 0.2),
)
def test_after_its_deadline_it_wants_to_be_called_later(
    sent_at: float, rtt: float, suspicions: int, granularity: float
) -> None:
    """Else a link would be called at its own deadline for ever, and do nothing."""
    config = Config(acknowledge_after=granularity, retransmit_min=granularity)
    bench = Bench(2, config)
    bench.now = sent_at
    bench.paths[0].sample(rtt)
    for _ in range(suspicions):
        bench.paths[0].suspect("late")
    bench.send(0)
    for _ in range(4):
        due = bench.recovery.due
        assert due > bench.now
        bench.expire(due)
    assert bench.lost == []


def course(seed: int) -> None:
    rng = random.Random(seed)
    bench = Bench(4)
    for _ in range(300):
        bench.now += rng.choice((0.0, 0.001, 0.05, 0.3)) * rng.random()
        action = rng.randrange(8)
        flying = [number for path in bench.paths for number in path.in_flight]
        if action <= 2:
            bench.send(rng.randrange(4), reliable=rng.random() < 0.8)
        elif action == 3 and flying:
            bench.acknowledge(*rng.sample(flying, rng.randrange(1, len(flying) + 1)))
        elif action == 4 and bench.flight.next_lost() is not None:
            bench.repeat(rng.randrange(4))
        elif action == 5:
            bench.flight.abandon(rng.choice(bench.paths))
        elif action == 6:
            bench.recovery.repeat_oldest(rng.choice(bench.paths), bench.now)
        else:
            for index in bench.expire(bench.now):
                assert bench.paths[index].in_flight, "only an overdue packet is a reason to ask"
                if rng.random() < 0.5:
                    bench.send(index, reliable=False)
            assert bench.recovery.due > bench.now, f"seed {seed}"
        for path in bench.paths:
            if path.in_flight:
                assert bench.recovery.due <= path.due < float("inf"), f"seed {seed}"
                patience = bench.recovery.patience(path)
                assert path.due <= bench.now + max(patience, UNMEASURED, 2.0), f"seed {seed}"
    # Whatever happened, asking again and again comes to an end once all is answered.
    for _ in range(300):
        flying = [number for path in bench.paths for number in path.in_flight]
        if flying:
            bench.acknowledge(*flying)
        if bench.flight.next_lost() is None:
            break
        bench.repeat(0)
    assert bench.flight.bytes == len(bench.flight) == 0
    while bench.recovery.due < float("inf"):
        assert bench.expire(max(bench.recovery.due, bench.now)) == []


@settings(max_examples=60)
@given(st.integers(0, 1 << 32))
def test_every_path_with_something_in_flight_is_watched_whatever_happens(seed: int) -> None:
    course(seed)
