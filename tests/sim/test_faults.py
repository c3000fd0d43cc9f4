"""Faults of lines against arithmetic: silence and repair, slowness, and the odds of loss."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.errors import UsageError
from transport.path import Faults
from transport.sim.events import SECOND, Events
from transport.sim.faults import Fault, phases
from transport.sim.port import BLACKHOLE, LOSS, FaultyPort, Packet, Traffic

GBIT = 10**9
SIZE = 1000
LEAVES = SIZE * 8000  # ps at 1 Gbit/s
SEED = 20260101


class Faulty:
    """One line of 1 Gbit/s with faults, and what comes out of it."""

    def __init__(self, *faults, rate=GBIT, seed=SEED):
        self.events, self.traffic = Events(), Traffic()
        self.port = FaultyPort(
            "a>b", 0, rate=rate, delay=0, buffer=1 << 40, events=self.events, traffic=self.traffic
        )
        chance = random.Random(seed)
        self.port.schedule(phases(faults, rate=rate, origin=0, chance=chance))
        self.arrived = []

    def send(self, time=0, size=SIZE, data=b"sealed"):
        self.traffic.sent += 1
        way = [self.port.accept, self._deliver]
        self.events.at(time, way[0], Packet(self.traffic.sent, size, way, None, data))

    def _deliver(self, time, packet):
        self.traffic.delivered += 1
        self.arrived.append((time, packet.number, packet.data))

    def run(self):
        self.events.run(10**4 * SECOND)
        assert self.traffic.in_network == 0
        return [time for time, _, _ in self.arrived]


def seconds(packets):
    """When that many packets have left, one behind the other."""
    return packets * LEAVES / SECOND


# --- silence and repair ---------------------------------------------------------------


def test_a_blackhole_swallows_what_leaves_while_it_lasts():
    line = Faulty(Fault.blackhole("a>b", at=seconds(3), until=seconds(5)))
    for _ in range(8):
        line.send()
    # Packets leave at 1, 2, 3... packet times: those at 3 and 4 are lost, 5 is repaired.
    assert line.run() == [LEAVES * leaves for leaves in (1, 2, 5, 6, 7, 8)]
    assert line.port.drops == {BLACKHOLE: 2}


def test_a_blackhole_is_not_noticed_at_the_queue():
    line = Faulty(Fault.blackhole("a>b", until=seconds(2.5)))
    for _ in range(4):
        line.send()
    assert line.run() == [3 * LEAVES, 4 * LEAVES]
    assert line.port.packets == 4


def test_without_repair_it_lasts():
    line = Faulty(Fault.blackhole("a>b"))
    for index in range(20):
        line.send(time=index * SECOND)
    assert line.run() == []
    assert line.port.drops == {BLACKHOLE: 20}


# --- slowness ------------------------------------------------------------------------


def test_a_degraded_line_takes_longer_by_its_factor():
    line = Faulty(Fault.degrade("a>b", 0.25))
    line.send()
    line.send()
    assert line.run() == [4 * LEAVES, 8 * LEAVES]


def test_what_is_queued_when_the_rate_changes_leaves_at_the_new_rate():
    line = Faulty(Fault.degrade("a>b", 0.5, at=seconds(1.5), until=seconds(3.5)))
    for _ in range(4):
        line.send()
    # Half of the second packet leaves at full rate and half at half: it needs 0.5 + 1.
    # The third is half done at 3.5 and then needs 0.5 more.
    assert line.run() == [round(LEAVES * at) for at in (1, 2.5, 4, 5)]


@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.integers(1, 40), st.sampled_from([0.1, 0.25, 0.5])),
        max_size=4,
    ),
    st.integers(1, 30),
)
def test_no_bit_is_lost_or_won_when_rates_change(changes, count):
    """The integral of the rate until a packet leaves is the bits sent by then."""
    faults = [
        Fault.degrade("a>b", factor, at=seconds(at), until=seconds(at + lasts))
        for at, lasts, factor in changes
    ]
    line = Faulty(*faults)
    for _ in range(count):
        line.send()
    edges = sorted({0.0, *(each.at for each in faults), *(each.until for each in faults)})
    for sent, time in enumerate(line.run(), 1):
        leaves = time / SECOND
        carried = 0.0
        for start, end in zip(edges, [*edges[1:], math.inf], strict=True):
            middle = (start + min(end, start + 1)) / 2
            rate = GBIT * math.prod(
                each.factor for each in faults if each.at <= middle < each.until
            )
            carried += rate * max(min(end, leaves) - start, 0)
        # A packet that ends between two picoseconds is rounded up, and so is each behind it.
        assert carried == pytest.approx(sent * SIZE * 8, abs=0.002 * sent + 1e-3)


# --- chance ----------------------------------------------------------------------------


def within(count, expected, probability):
    """Six standard deviations of a binomial: missed once in a billion."""
    return abs(count - expected) <= 6 * math.sqrt(expected * (1 - probability)) + 1


@pytest.mark.parametrize("probability", [0.001, 0.05, 0.5])
def test_losses_are_as_frequent_as_stated(probability):
    count = 20_000
    line = Faulty(Fault.impair("a>b", Faults(loss=probability)))
    for index in range(count):
        line.send(time=index * LEAVES)
    line.run()
    lost = line.port.drops[LOSS]
    assert lost == count - len(line.arrived)
    assert within(lost, count * probability, probability), (lost, SEED)


def test_losses_follow_the_seed():
    def lost(seed):
        line = Faulty(Fault.impair("a>b", Faults(loss=0.1)), seed=seed)
        for _ in range(500):
            line.send()
        line.run()
        return [number for _, number, _ in line.arrived]

    assert lost(1) == lost(1)
    assert lost(1) != lost(2)


def test_duplicates_are_counted_as_packets_of_their_own():
    count = 5_000
    line = Faulty(Fault.impair("a>b", Faults(duplication=0.2)))
    for index in range(count):
        line.send(time=index * LEAVES)
    line.run()
    doubled = Counter(Counter(number for _, number, _ in line.arrived).values())
    assert set(doubled) == {1, 2}
    assert line.traffic.duplicated == doubled[2]
    assert within(doubled[2], count * 0.2, 0.2), (doubled, SEED)


def test_reordered_packets_come_late_by_the_delay_stated():
    line = Faulty(Fault.impair("a>b", Faults(reordering=0.1, reordering_delay=0.001)))
    for _ in range(2_000):
        line.send()
    line.run()
    late = [time - number * LEAVES for time, number, _ in line.arrived]
    assert set(late) == {0, SECOND // 1000}
    assert within(late.count(SECOND // 1000), 200, 0.1), (Counter(late), SEED)


def test_damage_is_one_bit_and_never_in_the_senders_memory():
    data = bytes(64)
    line = Faulty(Fault.impair("a>b", Faults(corruption=1.0)))
    for _ in range(50):
        line.send(data=data)
    line.run()
    assert all(sum(byte.bit_count() for byte in got) == 1 for _, _, got in line.arrived)
    assert data == bytes(64)


def test_faults_of_one_port_combine():
    line = Faulty(
        Fault.degrade("a>b", 0.5),
        Fault.degrade("a>b", 0.5, at=seconds(10)),
        Fault.impair("a>b", Faults(loss=0.5), at=seconds(100)),
        Fault.impair("a>b", Faults(loss=0.5), at=seconds(100)),
        Fault.blackhole("a>b", at=seconds(9000)),
    )
    for _ in range(5000):
        line.send()
    times = line.run()
    assert times[:5] == [2 * LEAVES * (index + 1) for index in range(5)]
    assert times[5] == 14 * LEAVES
    # From the sixth on, packet n leaves at 10 + 4(n - 5): 27 before 100, and 2252 before 9000.
    assert line.port.drops[BLACKHOLE] == 5000 - 2252
    assert within(line.port.drops[LOSS], (2252 - 27) * 0.75, 0.75), (line.port.drops, SEED)


# --- bad input -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Fault.blackhole("a>b", at=-1), "begin at 0 s or later"),
        (lambda: Fault.blackhole("a>b", at=2, until=2), "got 2 to 2"),
        (lambda: Fault.degrade("a>b", 0), "above 0 and not above 1, got 0"),
        (lambda: Fault.degrade("a>b", 1.5), "got 1.5"),
        (lambda: Fault.impair("a>b", Faults(loss=2)), "Faults.loss must lie in 0..1"),
    ],
)
def test_faults_that_make_no_sense_are_refused(make, text):
    with pytest.raises(UsageError, match=text):
        make()
