"""Ports against arithmetic: serialisation, propagation, queues, drop-tail."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.sim.events import SECOND, Events, picoseconds
from transport.sim.port import BUFFER, FaultyPort, Packet, Port, Traffic

GBIT = 10**9
ROOMY = 1 << 40


class Line:
    """Ports one behind another, and where the packets come out."""

    def __init__(self, *, hops=1, rate=10 * GBIT, delay=0.0, buffer=ROOMY, kind=Port):
        self.events, self.traffic = Events(), Traffic()
        self.ports = [
            kind(
                f"p{index}",
                index,
                rate=rate,
                delay=picoseconds(delay),
                buffer=buffer,
                events=self.events,
                traffic=self.traffic,
            )
            for index in range(hops)
        ]
        self.arrived = []

    def send(self, size, time=0, at=0):
        self.traffic.sent += 1
        way = [port.accept for port in self.ports[at:]]
        packet = Packet(self.traffic.sent, size, [*way, self._deliver], None, b"")
        self.events.at(time, way[0], packet)

    def _deliver(self, time, packet):
        self.traffic.delivered += 1
        self.arrived.append((packet.number, time))

    def run(self):
        self.events.run(10**6 * SECOND)
        return [time for _, time in self.arrived]


def serialisation(size, rate):
    """Picoseconds, exactly: what the port may only round up to a whole one."""
    return Fraction(size * 8 * SECOND, rate)


BOTH = pytest.mark.parametrize("kind", [Port, FaultyPort])


@BOTH
def test_a_packet_takes_its_bits_and_the_delay(kind):
    line = Line(rate=100 * GBIT, delay=3e-6, kind=kind)
    line.send(1250)
    assert line.run() == [100_000 + 3_000_000]  # 100 ns for 10,000 bits, and 3 us


@BOTH
@given(st.integers(1, 1 << 24), st.integers(1000, 800 * GBIT), st.integers(0, 10**9))
def test_serialisation_is_exact_at_any_rate(kind, size, rate, delay_ns):
    line = Line(rate=rate, delay=delay_ns * 1e-9, kind=kind)
    line.send(size)
    (arrival,) = line.run()
    exact = serialisation(size, rate) + delay_ns * 1000
    assert 0 <= arrival - exact < 1


@BOTH
@given(st.integers(1, 8), st.integers(64, 9000), st.integers(0, 5000))
def test_each_hop_stores_the_whole_packet_before_it_forwards_it(kind, hops, size, delay_ns):
    line = Line(hops=hops, rate=GBIT, delay=delay_ns * 1e-9, kind=kind)
    line.send(size)
    assert line.run() == [hops * (size * 8000 + delay_ns * 1000)]


@BOTH
def test_behind_the_first_hop_a_train_keeps_its_spacing(kind):
    line = Line(hops=3, rate=GBIT, kind=kind)
    for _ in range(5):
        line.send(1000)
    assert line.run() == [8_000_000 * (3 + behind) for behind in range(5)]


@BOTH
def test_a_queue_is_served_in_order_at_the_rate_of_the_line(kind):
    line = Line(rate=GBIT, kind=kind)
    sizes = [1500, 64, 9000, 700]
    for size in sizes:
        line.send(size)
    assert line.run() == [8000 * sum(sizes[: behind + 1]) for behind in range(4)]


@BOTH
def test_two_senders_into_one_port_share_it_and_queue(kind):
    """Each sends at the line's rate, so half of what arrived by any time still waits."""
    line = Line(hops=1, rate=10 * GBIT, kind=kind)
    count, size = 50, 1000
    gap = size * 8 * 100  # ps at 10 Gbit/s
    for index in range(count):
        line.send(size, time=index * gap)
        line.send(size, time=index * gap)
    times = line.run()
    assert times == [(behind + 1) * gap for behind in range(2 * count)]
    port = line.ports[0]
    # The last pair finds count - 1 packets of 2 * (count - 1) before it, and adds its own two.
    assert port.peak == (count - 1 + 2) * size


@BOTH
def test_an_idle_line_starts_at_once(kind):
    line = Line(rate=GBIT, kind=kind)
    line.send(1000, time=0)
    line.send(1000, time=123_456_789)
    assert line.run() == [8_000_000, 123_456_789 + 8_000_000]


@BOTH
@given(st.integers(1, 12), st.integers(0, 999))
def test_the_queue_takes_what_fits_to_the_byte(kind, fitting, spare):
    size = 1000
    line = Line(rate=GBIT, buffer=fitting * size + spare, kind=kind)
    for _ in range(fitting + 3):
        line.send(size)
    assert len(line.run()) == fitting
    assert line.ports[0].drops == {BUFFER: 3}
    assert line.traffic.dropped == 3
    assert line.traffic.in_network == 0
    assert line.ports[0].peak == fitting * size


@BOTH
def test_a_smaller_packet_may_fit_where_a_larger_one_did_not(kind):
    line = Line(rate=GBIT, buffer=2500, kind=kind)
    for size in (1000, 1000, 1000, 500, 1):
        line.send(size)
    line.run()
    assert [number for number, _ in line.arrived] == [1, 2, 4]
    assert line.ports[0].drops == {BUFFER: 2}


@BOTH
def test_a_packet_holds_its_room_until_its_last_bit_has_left(kind):
    size = 1000
    leaves = size * 8000
    line = Line(rate=GBIT, buffer=size, kind=kind)
    line.send(size, time=0)
    line.send(size, time=leaves - 1)  # the room is taken
    line.send(size, time=leaves)  # it is free again
    assert line.run() == [leaves, 2 * leaves]
    assert line.ports[0].drops == {BUFFER: 1}


@BOTH
def test_what_a_port_holds_can_be_asked_at_any_time(kind):
    line = Line(rate=GBIT, kind=kind)
    for _ in range(3):
        line.send(1000)
    held = []
    for time in (1, 7_999_999, 8_000_000, 16_000_000, 24_000_000):
        line.events.at(time, lambda now, _: held.append(line.ports[0].held(now)))
    line.run()
    assert held == [3000, 3000, 2000, 1000, 0]


def test_dropped_packets_are_in_the_trace():
    def digest(buffer):
        line = Line(rate=GBIT, buffer=buffer)
        line.send(1000)
        line.send(1000, time=1)
        line.events.run(2)  # nothing has arrived yet
        return line.events.trace.digest()

    assert digest(2000) != digest(1999)
