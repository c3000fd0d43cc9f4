"""Samples: equal intervals from the barrier, of queues and flows as they are then."""

from __future__ import annotations

from transport.sim import Flow
from transport.sim.events import Events
from transport.sim.fabric import Fabric
from transport.sim.ledger import Ledger
from transport.sim.port import Packet
from transport.sim.sampler import Sampler
from transport.sim.topology import star


def test_queues_and_flows_are_sampled_at_equal_intervals():
    events = Events()
    port = Fabric(star(2, rate=10**9), seed=1, events=events).ports["s0>h1"]
    (state,) = Ledger([Flow("h0", "h1", 9000)], seed=1).states
    packet = 8_000_000  # ps that 1000 bytes take
    origin = 5 * packet
    sampler = Sampler(events, [port], [state], interval=packet, origin=origin)
    way = [port.accept, lambda time, _: None]
    for number in range(3):
        events.at(origin + 1, port.accept, Packet(number, 1000, way, None, b"x"))

    def receive(time, size):
        state.received += size

    events.at(origin + packet + 1, receive, 700)
    events.run(origin + 4 * packet)
    series = sampler.series()
    assert series.times == (0.0, 8e-6, 16e-6, 24e-6, 32e-6)
    # They join just after the first sample, so the first has not quite left at the second.
    assert series.queue == {"s0>h1": (0, 3000, 2000, 1000, 0)}
    assert series.received == {"h0>h1": (0, 0, 700, 700, 700)}
