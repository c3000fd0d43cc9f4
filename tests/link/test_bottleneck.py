"""The window of links: fills a bottleneck quickly, queues little, and heeds no single path."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.pipe import Pipe
from transport.config import KIB, Config
from transport.link.bottleneck import (
    FLOOR_PACKETS,
    GAIN,
    INITIAL_PACKETS,
    LEAST_GAIN,
    BottleneckWindow,
)
from transport.link.congestion import Delivery
from transport.link.paths import PathState
from transport.wire.packet import BULK_OVERHEAD

RATE, TRIP, PACKET = 1.25e9, 1e-4, 1250  # 10 Gb/s, 100 us: a hundred packets under way


def pipe(paths: int = 1, seed: int = 1) -> Pipe:
    return Pipe(rate=RATE, trip=TRIP, packet=PACKET, paths=paths, seed=seed)


def running(paths: int = 1, seed: int = 1) -> Pipe:
    """A pipe whose start-up is over."""
    made = pipe(paths, seed)
    made.run(trips=30)
    return made


# --- a good network --------------------------------------------------------------------------


def test_it_starts_with_ten_packets_and_doubles_each_round_trip() -> None:
    one = Pipe(rate=1000 * RATE, trip=TRIP, packet=PACKET)  # so wide that nothing queues
    windows = [one.window.window_bytes / PACKET]
    for _ in range(5):
        one.run(trips=1.02)
        windows.append(one.window.window_bytes / PACKET)
    assert windows[0] == INITIAL_PACKETS
    doubled = [after / before for before, after in pairwise(windows)]
    assert 1.5 < doubled[0] <= 2.1, "of the first round the end is not known yet"
    assert doubled[1:] == pytest.approx([2.0] * 4, abs=0.15)


def test_a_full_pipe_holds_the_rate_times_the_round_trip_times_the_gain() -> None:
    one = running()
    assert one.throughput(trips=20) == pytest.approx(RATE, rel=0.01)
    assert one.window.rate == pytest.approx(RATE, rel=0.01)
    assert one.window.window_bytes == pytest.approx(GAIN * one.product, rel=0.05)
    assert one.window.crowding < 0.01
    assert one.flight.retransmissions == 0


@pytest.mark.parametrize(
    ("rate", "trip", "packet"),
    [
        (12.5e6, 80e-3, 10_000),  # 100 Mb/s across a continent
        (125e6, 10e-3, 12_500),  # 1 Gb/s across a city
        (1.25e9, 100e-6, 1250),  # 10 Gb/s across a building
        (12.5e9, 10e-6, 1250),  # 100 Gb/s across a rack
        (12.5e9, 80e-3, 10_000_000),  # 100 Gb/s across a continent, in large packets
    ],
)
def test_the_same_policy_fills_any_speed_in_as_many_round_trips(
    rate: float, trip: float, packet: int
) -> None:
    """Each of these networks holds a hundred packets; nothing else about them is alike."""
    one, reference = Pipe(rate=rate, trip=trip, packet=packet), pipe()
    needed = one.until(lambda: one.window.rate > 0.95 * rate, trips=50)
    usual = reference.until(lambda: reference.window.rate > 0.95 * RATE, trips=50)
    assert needed == pytest.approx(usual, abs=1e-6)
    assert needed < 8.0
    one.run(trips=25)
    assert one.throughput(trips=10) == pytest.approx(rate, rel=0.01)
    assert one.window.window_bytes == pytest.approx(GAIN * one.product, rel=0.05)


@pytest.mark.parametrize("held", [3, 30, 300, 1500])
def test_a_network_of_any_size_is_filled(held: int) -> None:
    one = Pipe(rate=held * PACKET / TRIP, trip=TRIP, packet=PACKET)
    one.run(trips=25)
    assert one.throughput(trips=10) == pytest.approx(one.rate, rel=0.02)
    assert one.window.window_bytes <= 1.05 * GAIN * (one.product + FLOOR_PACKETS * PACKET)


# --- one bad path of many ------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["loss", "delay", "slow", "black"])
def test_one_bad_path_of_many_does_not_narrow_the_window(fault: str) -> None:
    one = running(16)
    calm = one.window.window_bytes
    line = one.lines[3]
    if fault == "loss":
        line.loss = 0.3
    elif fault == "delay":
        line.extra = 20 * TRIP
    elif fault == "slow":
        line.rate = RATE / 160
    else:
        line.loss = 1.0
    narrowest = calm
    for _ in range(60):
        one.run(trips=1)
        narrowest = min(narrowest, one.window.window_bytes)
    assert narrowest > 0.8 * calm
    assert one.throughput(trips=20) > 0.95 * RATE
    assert one.window.crowding < 0.2


# --- congestion ------------------------------------------------------------------------------


@pytest.mark.parametrize("paths", [1, 16])
def test_what_most_packets_feel_is_congestion_and_lowers_the_window(paths: int) -> None:
    one = running(paths)
    one.rate /= 4  # others have come, and take three quarters
    crowding = 0.0
    for _ in range(100):
        one.run(trips=1)
        crowding = max(crowding, one.window.crowding)
    assert crowding > 0.5
    assert one.window.rate == pytest.approx(one.rate, rel=0.03)
    assert one.window.window_bytes == pytest.approx(GAIN * one.product, rel=0.1)
    assert one.throughput(trips=20) == pytest.approx(one.rate, rel=0.02)
    one.rate *= 4  # they have gone
    one.run(trips=60)
    assert one.throughput(trips=20) == pytest.approx(one.rate, rel=0.02)


@dataclass(frozen=True)
class Round:
    """What was sent and what arrived in one round, and how crowded it was by its end."""

    sent: int
    delivered: int
    crowding: float


class Watched(BottleneckWindow):
    """The window, and what SRD's other sign of congestion would have to go by."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.rounds: list[Round] = []
        self._watched_sent = self._watched_delivered = self._watched_until = 0

    def on_sent(self, path: PathState, size: int, now: float) -> None:
        super().on_sent(path, size, now)
        self._watched_sent += size

    def on_delivery(self, delivery: Delivery, now: float) -> None:
        super().on_delivery(delivery, now)
        if delivery.delivered_before < self._watched_until:
            return
        delivered = delivery.delivered - self._watched_delivered
        self.rounds.append(Round(self._watched_sent, delivered, self.crowding))
        self._watched_sent = 0
        self._watched_delivered = self._watched_until = delivery.delivered


@pytest.mark.parametrize("paths", [1, 16])
@pytest.mark.parametrize("left", [0.1, 0.25, 0.7])
def test_a_fallen_rate_shows_in_round_trips_and_not_in_what_is_sent(
    paths: int, left: float
) -> None:
    """SRD compares the two, for it paces; here acknowledgements release what is sent."""
    window = Watched(pipe(paths).config)
    one = Pipe(rate=RATE, trip=TRIP, packet=PACKET, paths=paths, window=window)
    one.run(trips=30)
    assert window.crowding < 0.1
    window.rounds.clear()
    one.rate *= left
    one.run(trips=60)
    crowded = next(at for at, each in enumerate(window.rounds) if each.crowding > 0.5)
    assert crowded <= 2, "the rounds that were under way end, and the next ones tell"
    assert all(each.delivered > 0.95 * each.sent for each in window.rounds[: crowded + 1])


@pytest.mark.parametrize("paths", [1, 16])
@pytest.mark.parametrize("seed", range(3))
def test_a_loss_by_chance_of_one_percent_leaves_the_window(paths: int, seed: int) -> None:
    one = running(paths, seed)
    for line in one.lines:
        line.loss = 0.01
    one.run(trips=100)
    assert one.window.window_bytes > 0.95 * GAIN * one.product
    assert one.throughput(trips=50) > 0.93 * RATE


@pytest.mark.parametrize("seed", range(3))
def test_a_loss_of_a_fifth_lowers_the_gain_and_its_end_raises_it(seed: int) -> None:
    one = running(16, seed)
    for line in one.lines:
        line.loss = 0.2
    gains = []
    for _ in range(60):
        one.run(trips=1)
        gains.append(one.window.window_bytes / (one.window.rate * one.trip))
    assert min(gains) < 1.05 * LEAST_GAIN < GAIN
    assert one.throughput(trips=60) > 0.4 * RATE, "it is no collapse either"
    for line in one.lines:
        line.loss = 0.0
    one.run(trips=60)
    assert one.window.window_bytes > 0.95 * GAIN * one.product
    assert one.throughput(trips=20) > 0.98 * RATE


@pytest.mark.parametrize("paths", [1, 16])
@pytest.mark.parametrize("longer", [1.6, 2.0, 4.0, 10.0])
def test_a_longer_route_is_learnt(paths: int, longer: float) -> None:
    """Its round trips look crowded at first; they stay so when hardly anything is in flight.

    One that the gain covers need not be learnt: the window fills it as it is.
    """
    one = running(paths)
    one.trip *= longer
    one.run(trips=100)
    assert one.throughput(trips=10) > 0.95 * RATE
    least = 0.95 * one.product if longer <= GAIN else 0.85 * GAIN * one.product
    assert least < one.window.window_bytes < 1.15 * GAIN * one.product


def test_a_slightly_longer_route_is_what_the_gain_is_for() -> None:
    one = running()
    one.trip *= 1.4
    one.run(trips=5)
    assert one.throughput(trips=20) > 0.97 * RATE
    assert one.window.crowding < 0.1


def test_a_shorter_route_is_learnt_from_the_first_packet_over_it() -> None:
    one = running()
    one.trip /= 4
    one.run(trips=40)
    assert one.throughput(trips=40) > 0.97 * RATE


# --- what is not congestion ----------------------------------------------------------------


def window_and_path(**changes: int) -> tuple[BottleneckWindow, PathState]:
    config = Config(**{"packet_payload": 8 * KIB, "window_bytes": 1 << 30, **changes})
    return BottleneckWindow(config), PathState(0, object(), "", 0.0)


def test_small_packets_teach_nothing_of_round_trips() -> None:
    """A probe is quicker than a large packet, even where nothing queues."""
    window, path = window_and_path()
    for tick in range(100):
        window.on_acknowledged(path, 60, 1e-6, tick / 100)
        window.on_acknowledged(path, 8 * KIB, 0.01, tick / 100)
    assert window.crowding == 0.0


def test_a_silence_and_a_sending_change_nothing() -> None:
    window, path = window_and_path()
    before = window.window_bytes
    for tick in range(100):
        window.on_sent(path, 8 * KIB, tick / 100)
        window.on_silence(tick / 100)
    assert window.window_bytes == before
    assert window.rate == 0.0


def test_losses_of_a_suspected_path_are_its_own() -> None:
    window, path = window_and_path()
    narrow, _ = window_and_path()
    other = PathState(1, object(), "", 0.0)
    other.suspected = True
    delivered = 0
    for tick in range(1, 60):
        for each, lost in ((window, other), (narrow, path)):
            for _ in range(40):
                each.on_acknowledged(path, 8 * KIB, 0.01, tick / 100)
            for _ in range(40):
                each.on_lost(lost, 8 * KIB, tick / 100)
            each.on_delivery(
                Delivery(320 * KIB, delivered + 320 * KIB, delivered, 32e6, False), tick / 100
            )
        delivered += 320 * KIB
    assert narrow.window_bytes == pytest.approx(LEAST_GAIN * 32e6 * 0.011, rel=0.01)
    assert window.window_bytes == pytest.approx(GAIN * 32e6 * 0.011, rel=0.01)


# --- limits ----------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 1 << 32),
    most=st.integers(2 * 8 * KIB, 1 << 22),
    packets=st.integers(8, 64),
)
def test_the_limits_of_bytes_and_packets_hold_whatever_is_reported(
    seed: int, most: int, packets: int
) -> None:
    rng = random.Random(seed)
    window, _ = window_and_path(window_bytes=most, window_packets=packets)
    paths = [PathState(index, object(), "", 0.0) for index in range(4)]
    least = min(FLOOR_PACKETS * (8 * KIB + BULK_OVERHEAD), most)
    delivered = 0
    for step in range(120):
        now = step * 10 ** rng.uniform(-6, 0)
        path = rng.choice(paths)
        path.suspected = rng.random() < 0.2
        size = rng.randrange(1, 8 * KIB + BULK_OVERHEAD)
        rtt = rng.choice((None, 10 ** rng.uniform(-6, 1)))
        window.on_acknowledged(path, size, rtt, now)
        if rng.random() < 0.3:
            window.on_lost(path, size, now)
        before = rng.randrange(delivered + 1)
        rate = rng.choice((None, 10 ** rng.uniform(0, 12)))
        delivered += size
        window.on_delivery(Delivery(size, delivered, before, rate, rng.random() < 0.3), now)
        assert least <= window.window_bytes <= most, f"seed {seed}"
        in_flight, count = rng.randrange(most * 2), rng.randrange(1, packets * 2)
        admitted = window.admits(size, in_flight, count)
        assert admitted is (in_flight + size <= window.window_bytes and count < packets)
        assert window.admits(size, 0, 0), "one packet is always admitted"
        assert 0.0 <= window.crowding <= 1.0
