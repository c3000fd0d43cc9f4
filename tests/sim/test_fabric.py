"""The network of a run: which ports there are, and which of them have faults."""

from __future__ import annotations

import pytest

from transport.errors import UsageError
from transport.sim import Cable, Fault, Topology, fat_tree, star
from transport.sim.events import Events
from transport.sim.fabric import UNLIMITED, Fabric
from transport.sim.port import LOSS, FaultyPort, Packet


def fabric_of(topology, *faults):
    return Fabric(topology, seed=1, events=Events(), faults=faults)


def test_each_direction_of_a_cable_is_a_port():
    topology = fat_tree(4, rate=25e9, delay=2e-6, buffer=54_321)
    fabric = fabric_of(topology)
    assert tuple(fabric.ports) == topology.ports
    assert [port.index for port in fabric.ports.values()] == list(range(len(topology.ports)))
    assert {(port.rate, port.delay) for port in fabric.ports.values()} == {(25 * 10**9, 2_000_000)}


def test_only_switches_have_a_limited_queue():
    fabric = fabric_of(star(2, buffer=54_321))
    assert fabric.ports["s0>h0"].buffer == 54_321
    assert fabric.uplink("h0") is fabric.ports["h0>s0"]
    assert fabric.uplink("h0").buffer == UNLIMITED


def test_a_way_is_made_of_these_ports():
    fabric = fabric_of(star(2))
    assert fabric.way("h0", "h1", 5) == [fabric.ports["h0>s0"], fabric.ports["s0>h1"]]


def test_sound_ports_do_not_pay_for_faulty_ones():
    fabric = fabric_of(star(2), Fault.blackhole("s0>h1"))
    faulty = {name for name, port in fabric.ports.items() if isinstance(port, FaultyPort)}
    assert faulty == {"s0>h1"}


def test_the_loss_of_a_cable_is_a_fault_of_both_directions():
    topology = Topology(
        hosts=("a", "b"), switches=("x",), cables=(Cable("a", "x", loss=0.999), Cable("b", "x"))
    )
    events = Events()
    fabric = Fabric(topology, seed=1, events=events)
    fabric.break_lines(0)
    for name in ("a>x", "x>a"):
        port = fabric.ports[name]
        way = [port.accept, lambda time, packet: None]
        for number in range(100):
            events.at(0, port.accept, Packet(number, 100, way, None, b"x"))
    events.run(10**12)
    assert all(fabric.ports[name].drops[LOSS] > 90 for name in ("a>x", "x>a"))
    assert not isinstance(fabric.ports["b>x"], FaultyPort)


def test_packets_under_way_are_counted_one_by_one():
    events = Events()
    fabric = Fabric(star(2), seed=1, events=events)
    way = [port.accept for port in fabric.way("h0", "h1", 0)]
    way.append(lambda time, packet: None)
    for number in range(5):
        events.at(0, way[0], Packet(number, 1250, way, None, b"x"))
    events.at(50, lambda time, _: None)
    assert fabric.travelling() == 5
    events.run(2_200_000 + 2 * 100_000)  # the first needs 2.2 us, each further one 0.1 us more
    assert fabric.travelling() == 2


def test_faults_of_ports_that_do_not_exist_are_refused():
    with pytest.raises(UsageError, match="a fault names port 'h0>h1', which does not exist"):
        fabric_of(star(2), Fault.blackhole("h0>h1"))
