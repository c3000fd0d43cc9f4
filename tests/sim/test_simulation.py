"""Whole runs against arithmetic: real links over networks whose times are known in closed form."""

from __future__ import annotations

import math

import pytest

from transport.config import Config
from transport.errors import UsageError
from transport.sim import (
    FABRIC,
    GBIT,
    Fault,
    Faults,
    Flow,
    Simulation,
    UnfinishedError,
    fat_tree,
    fixed,
    leaf_spine,
    srd,
    star,
    tcp_like,
    wide_area,
)
from transport.wire.packet import BULK_OVERHEAD

PAYLOAD = FABRIC.packet_payload
ON_THE_LINE = PAYLOAD + BULK_OVERHEAD + 66
SEED = 11


def run(topology, *flows, policy=None, deadline=1.0, strict=True, **options):
    simulation = Simulation(topology, policy=policy or fixed(paths=2), seed=SEED, **options)
    return simulation.run(flows, deadline=deadline, strict=strict)


def end(topology, *flows, **options):
    """When the last flow ended, in picoseconds after the barrier."""
    return round(run(topology, *flows, **options).completion * 1e12)


# --- time ------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [10 * GBIT, 100 * GBIT, 400 * GBIT])
def test_one_more_packet_takes_one_more_serialisation(rate):
    few, more = (
        end(star(2, rate=rate), Flow("h0", "h1", packets * PAYLOAD)) for packets in (50, 51)
    )
    assert more - few == ON_THE_LINE * 8 * 10**12 // rate


def test_a_small_message_crosses_each_cable_once():
    near, far = (end(star(2, delay=delay), Flow("h0", "h1", 1000)) for delay in (1e-6, 5e-6))
    assert far - near == 2 * 4_000_000


def test_a_large_message_is_announced_and_granted_first():
    near, far = (end(star(2, delay=delay), Flow("h0", "h1", 9000)) for delay in (1e-6, 5e-6))
    assert far - near == 3 * 2 * 4_000_000


def test_a_small_message_is_stored_and_forwarded_at_each_hop():
    """2, 4 and 6 ports of equal lines: the time is theirs in proportion."""
    networks = (star(2, delay=0), leaf_spine(2, 1, 1, delay=0), fat_tree(4, delay=0))
    two, four, six = (end(each, Flow("h0", each.hosts[-1], 1000)) for each in networks)
    assert four == 2 * two
    assert six == 3 * two
    slow = end(star(2, delay=0, rate=10 * GBIT), Flow("h0", "h1", 1000))
    assert slow == 10 * two


def test_flows_begin_when_they_are_said_to():
    flow = Flow("h0", "h1", 1000)
    late = Flow("h0", "h1", 1000, start=0.25)
    first, second = run(star(2), flow, late).flows
    assert second.end - second.start == pytest.approx(first.end, abs=1e-12)
    assert second.end > 0.25


def test_senders_into_one_port_share_its_rate():
    """The last of three ends when all bytes have passed the port, and a round trip."""
    size = 100 * PAYLOAD
    flows = [Flow(f"h{index}", "h3", size) for index in range(3)]
    result = run(star(4, buffer=3 * size), *flows)
    ideal = 3 * 100 * ON_THE_LINE * 8 / (100 * GBIT)
    assert ideal < result.completion < ideal + 10e-6
    assert result.ports["s0>h3"].peak_queue > size  # a fixed window fills the queue


def test_endpoints_of_one_host_share_its_line_evenly():
    size = 100 * PAYLOAD
    flows = [Flow(f"h0/{index}", f"h{index + 1}", size) for index in range(3)]
    result = run(star(4), *flows)
    ideal = 3 * 100 * ON_THE_LINE * 8 / (100 * GBIT)
    assert ideal < result.completion < ideal + 10e-6
    assert result.durations[-1] - result.durations[0] < 5 * ON_THE_LINE * 8 / (100 * GBIT)
    assert len(result.links) == 3


def test_both_directions_of_a_cable_are_independent():
    size = 100 * PAYLOAD
    alone = run(star(2), Flow("h0", "h1", size)).completion
    both = run(star(2), Flow("h0", "h1", size), Flow("h1", "h0", size))
    assert len(both.links) == 1
    # Acknowledgements and grants of the other direction take a little of the line.
    assert alone <= both.completion < 1.1 * alone


def test_messages_of_a_flow_follow_each_other_without_a_pause():
    size, count = 20 * PAYLOAD, 30
    result = run(star(2), Flow("h0", "h1", size, count=count))
    (flow,) = result.flows
    assert (flow.delivered, flow.received) == (count, count * size)
    ideal = count * 20 * ON_THE_LINE * 8 / (100 * GBIT)
    assert ideal < flow.end < 1.03 * ideal + 10e-6


def test_many_small_messages_arrive_too():
    (flow,) = run(star(2), Flow("h0", "h1", 300, count=200)).flows
    assert (flow.delivered, flow.received) == (200, 60_000)


@pytest.mark.parametrize("policy", [fixed(paths=4), srd(paths=4), tcp_like()])
def test_every_policy_delivers_over_every_network(policy):
    for network in (star(4), leaf_spine(2, 2, 2), fat_tree(4)):
        first, *_, last = network.hosts
        flows = [Flow(first, last, 200_000), Flow(last, first, 300)]
        assert run(network, *flows, policy=policy).unfinished == ()


# --- before the barrier -----------------------------------------------------------------


def test_links_are_made_through_the_network():
    delay = 20e-6
    result = run(star(3, delay=delay), Flow("h0", "h1", 100), Flow("h0", "h2", 100))
    round_trip = 4 * delay
    assert result.setup > 2 * round_trip
    for caller, answerer in result.links.values():
        assert caller.handshake_seconds > round_trip
        assert [path.state for path in caller.paths] == ["usable"] * 2
        assert [path.state for path in answerer.paths] == ["usable"] * 2
        assert all(path.rtt_min > round_trip for path in caller.paths)
    before = run(star(2), Flow("h0", "h1", 100, start=0.5))
    # An unloaded network: what was sent by then are handshakes and joins.
    assert before.packets_sent > 10


def test_links_that_cannot_be_made_are_named():
    """A handshake takes three ways; over this line it takes longer than the answerer waits."""
    with pytest.raises(UnfinishedError, match="1 links were not made in 30 s: h0 to h1"):
        run(wide_area(delay=6.0), Flow("h0", "h1", 100))


def test_faults_do_not_touch_the_setup():
    port = "h0>s0"
    with pytest.raises(UnfinishedError) as caught:
        run(star(2), Flow("h0", "h1", 100), faults=[Fault.blackhole(port)], deadline=0.01)
    ((caller, _),) = caught.value.result.links.values()
    assert caller.state == "open"
    assert caught.value.result.ports[port].drops["blackhole"] > 0


# --- faults -----------------------------------------------------------------------------


def test_a_dead_way_is_left_for_the_others():
    network = leaf_spine(2, 2, 1, routing="spray")
    result = run(
        network,
        Flow("h0", "h1", 2_000_000),
        policy=srd(paths=2),
        faults=[Fault.blackhole("leaf0>spine0", at=50e-6)],
    )
    assert result.ports["leaf0>spine0"].drops["blackhole"] > 0
    assert result.flows[0].received == 2_000_000
    ((caller, _),) = result.links.values()
    assert caller.retransmissions >= result.drops["blackhole"] - 2  # a probe may be among them


def test_a_repaired_line_carries_again():
    faults = [Fault.blackhole("h0>s0", at=20e-6, until=0.002)]
    result = run(star(2), Flow("h0", "h1", 2_000_000), faults=faults)
    assert result.completion > 0.002
    assert result.flows[0].received == 2_000_000


def test_a_degraded_line_sets_the_pace():
    size = 100 * PAYLOAD
    slow = run(star(2), Flow("h0", "h1", size), faults=[Fault.degrade("s0>h1", 0.1)])
    ideal = 100 * ON_THE_LINE * 8 / (10 * GBIT)
    assert ideal < slow.completion < ideal + 20e-6


def test_damaged_packets_are_refused_and_sent_again():
    faults = [Fault.impair("h0>s0", Faults(corruption=0.2))]
    result = run(star(2), Flow("h0", "h1", 1_000_000), faults=faults)
    ((caller, answerer),) = result.links.values()
    assert answerer.drops["authentication"] > 10
    assert caller.retransmissions > 10
    assert result.flows[0].received == 1_000_000


def test_doubled_packets_are_taken_once():
    faults = [Fault.impair("h0>s0", Faults(duplication=0.3))]
    result = run(star(2), Flow("h0", "h1", 1_000_000), faults=faults)
    ((_, answerer),) = result.links.values()
    assert answerer.drops["replay"] > 10
    assert result.packets_duplicated >= answerer.drops["replay"]
    assert result.flows[0].received == 1_000_000


def test_a_lossy_wide_area_line_loses_its_share():
    network = wide_area(rate=GBIT, delay=0.005, loss=0.02)
    result = run(network, Flow("h0", "h1", 8_000_000), policy=fixed(paths=2), deadline=60)
    port = result.ports["r0>r1"]
    expected = port.packets * 0.02
    assert abs(port.drops["loss"] - expected) < 6 * math.sqrt(expected), SEED
    assert result.flows[0].received == 8_000_000


def test_packets_are_conserved_and_drops_have_a_place():
    flows = [Flow(f"h{index}", "h4", 500_000) for index in range(4)]
    result = run(star(5, buffer=100_000), *flows, policy=fixed(paths=2, window_bytes=200_000))
    assert result.drops == {"buffer": result.packets_dropped}
    assert result.packets_dropped == result.ports["s0>h4"].drops["buffer"] > 0
    assert result.packets_sent == (
        result.packets_delivered + result.packets_dropped + result.packets_in_network
    )
    assert result.ports["s0>h4"].peak_queue <= 100_000


# --- the end ------------------------------------------------------------------------------


def test_a_run_that_cannot_finish_ends_and_names_what_is_left():
    flows = [Flow("h0", "h1", 50_000, name="lost"), Flow("h1", "h2", 500)]
    with pytest.raises(UnfinishedError, match=r"1 of 2 flows are left after 0.02 s: lost \(0 of"):
        run(star(3), *flows, faults=[Fault.blackhole("h0>s0")], deadline=0.02)
    result = run(star(3), *flows, faults=[Fault.blackhole("h0>s0")], deadline=0.02, strict=False)
    assert result.unfinished == ("lost",)
    assert result.completion is None
    assert result.flows[0].end is result.flows[0].duration is None
    assert result.flows[1].delivered == 1
    assert result.elapsed == pytest.approx(0.02, abs=1e-12)


def test_a_link_that_failed_is_named_as_the_reason():
    with pytest.raises(UnfinishedError, match=r"the link of h0 to h1 failed: .* was silent"):
        run(
            star(2),
            Flow("h0", "h1", 50_000, count=3),
            Flow("h0", "h1", 50_000, start=15.0),
            faults=[Fault.blackhole("h0>s0"), Fault.blackhole("s0>h0")],
            deadline=20,
        )


def test_many_flows_left_are_counted():
    flows = [Flow("h0", "h1", 10_000) for _ in range(9)]
    with pytest.raises(UnfinishedError, match=r"9 of 9 .*h0>h1#5 .* and 4 more"):
        run(star(2), *flows, faults=[Fault.blackhole("h0>s0")], deadline=0.001)


# --- series -----------------------------------------------------------------------------


def test_a_series_samples_flows_and_queues():
    flows = [Flow(f"h{index}", "h2", 1_000_000) for index in range(2)]
    result = run(star(3), *flows, sample_every=10e-6)
    series = result.series
    assert series.times == pytest.approx([index * 10e-6 for index in range(len(series.times))])
    assert set(series.queue) == {"s0>h2"}
    assert 0 < max(series.queue["s0>h2"]) <= result.ports["s0>h2"].peak_queue
    for flow in result.flows:
        received = series.received[flow.name]
        assert list(received) == sorted(received)
        assert received[-1] <= flow.received
    middle = len(series.times) // 2
    together = sum(series.rates(flow.name)[middle] for flow in result.flows)
    goodput = 100 * GBIT * PAYLOAD / ON_THE_LINE
    assert together == pytest.approx(goodput, rel=0.08)  # a packet more or less a sample


def test_other_ports_can_be_watched():
    watch = ("h0>s0",)
    result = run(star(2), Flow("h0", "h1", 100_000), sample_every=1e-6, watch=watch)
    assert tuple(result.series.queue) == watch
    assert run(star(2), Flow("h0", "h1", 100_000)).series is None


# --- bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("use", "text"),
    [
        (lambda: run(star(2)), "at least one flow"),
        (lambda: run(star(2), Flow("h0", "h9", 1)), "names 'h9', whose host does not exist"),
        (lambda: run(star(2), Flow("s0", "h0", 1)), "names 's0'"),
        (lambda: run(star(2), Flow("h0", "h1", 1), deadline=0), "got 0 s"),
        (lambda: run(star(2), Flow("h0", "h1", 1, start=2), deadline=2), "after every start"),
        (lambda: run(star(2), Flow("h0", "h1", 1), deadline=float("inf")), "not above 1000000"),
        (
            lambda: run(star(2), Flow("h0", "h1", 1), faults=[Fault.blackhole("s0>h2")]),
            "names port 's0>h2', which does not exist",
        ),
        (lambda: run(star(2), Flow("h0", "h1", 1), watch=["h0"]), "port 'h0' is to be watched"),
        (lambda: run(star(2), Flow("h0", "h1", 1), sample_every=0), "above 0 s, got 0"),
        (lambda: run(star(2, buffer=9000), Flow("h0", "h1", 1)), r"hold a packet of \d+ bytes"),
        (lambda: run(star(2), Flow("h0", "h1", 1), policy=fixed(paths=0)), "Config.paths must"),
    ],
)
def test_what_cannot_be_run_is_refused(use, text):
    with pytest.raises(UsageError, match=text):
        use()


def test_a_simulation_runs_once():
    simulation = Simulation(star(2), policy=fixed(paths=1))
    simulation.run([Flow("h0", "h1", 1)], deadline=1.0)
    with pytest.raises(UsageError, match="runs once"):
        simulation.run([Flow("h0", "h1", 1)], deadline=1.0)


def test_hosts_run_with_the_settings_given():
    simulation = Simulation(
        star(2), policy=tcp_like(window_bytes=1 << 20), config=Config(packet_payload=4096)
    )
    config = simulation.config
    assert (config.packet_payload, config.window_bytes, config.paths) == (4096, 1 << 20, 1)
    assert config.retransmit_min == 0.2
    assert config.eager_limit == Config().eager_limit
