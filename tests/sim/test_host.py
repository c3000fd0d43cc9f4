"""Network cards: nothing queues behind them, and links take turns."""

from __future__ import annotations

from transport.sim import FABRIC, GBIT, Flow, Simulation, fixed, star
from transport.wire.packet import BULK_OVERHEAD

ON_THE_LINE = FABRIC.packet_payload + BULK_OVERHEAD + 66


def run(topology, *flows, **options):
    return Simulation(topology, policy=fixed(paths=2), seed=5, **options).run(flows, deadline=1.0)


def test_a_packet_is_taken_when_the_line_is_free():
    """However much the links would send: one packet at a time is in the card."""
    flows = [Flow(f"h0/{index}", "h1", 400_000) for index in range(5)]
    result = run(star(2), *flows)
    assert result.ports["h0>s0"].peak_queue == ON_THE_LINE


def test_the_line_never_rests_while_a_link_has_something_to_send():
    size = 200 * FABRIC.packet_payload
    result = run(star(2, buffer=1 << 23), Flow("h0", "h1", size))
    busy = result.ports["h0>s0"].bytes * 8 / (100 * GBIT)
    # Before the first piece an announcement goes there and a grant comes back.
    assert result.completion - busy < 10e-6


def test_links_of_one_host_take_turns():
    """A late flow gets its half at once, though the other has filled its window."""
    early = Flow("h0/1", "h1", 400 * FABRIC.packet_payload)
    late = Flow("h0/2", "h2", 50 * FABRIC.packet_payload, start=100e-6)
    result = run(star(3), early, late)
    alone = 50 * ON_THE_LINE * 8 / (100 * GBIT)
    assert 2 * alone < result.flows[1].duration < 2 * alone + 12e-6


def test_small_messages_are_not_held_up_by_large_ones():
    large = Flow("h0/1", "h1", 2_000_000)
    small = Flow("h0/2", "h2", 500, start=50e-6)
    result = run(star(3), large, small)
    assert result.flows[1].duration < 6e-6  # two cables of 1 us, and at most one packet before
