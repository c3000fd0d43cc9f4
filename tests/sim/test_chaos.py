"""Whatever a network does that heals, every message arrives: random faults under whole runs.

The invariants are checked inside each run; what is asserted here is that nothing is
left once the faults are over. Hypothesis prints the case that fails.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from transport.sim import Fault, Faults, Flow, Simulation, fixed, leaf_spine, srd, star, tcp_like

NETWORK = leaf_spine(2, 2, 2, buffer=60_000)
HEALED = 0.003  # seconds: then all faults are over
CHANCES = st.floats(0, 0.3)
PORTS = st.sampled_from(NETWORK.ports)
TIMES = st.tuples(st.floats(0, HEALED / 2), st.floats(1e-6, HEALED / 2))


@st.composite
def fault(draw):
    port = draw(PORTS)
    at, lasts = draw(TIMES)
    when = {"at": at, "until": at + lasts}
    kind = draw(st.sampled_from(("dead", "slow", "bad")))
    if kind == "dead":
        return Fault.blackhole(port, **when)
    if kind == "slow":
        return Fault.degrade(port, draw(st.floats(0.01, 1)), **when)
    suffered = Faults(
        loss=draw(CHANCES),
        duplication=draw(CHANCES),
        corruption=draw(CHANCES),
        reordering=draw(CHANCES),
        reordering_delay=draw(st.floats(0, 1e-4)),
    )
    return Fault.impair(port, suffered, **when)


@st.composite
def flow(draw):
    src, dst = draw(st.permutations(NETWORK.hosts))[:2]
    return Flow(
        src,
        dst,
        draw(st.sampled_from((1, 4096, 4097, 8193, 60_000, 150_000))),
        start=draw(st.floats(0, HEALED)),
        count=draw(st.integers(1, 4)),
    )


@settings(max_examples=40)
@given(
    st.lists(fault(), max_size=5),
    st.lists(flow(), min_size=1, max_size=6),
    st.sampled_from([srd(paths=4), fixed(paths=4, window_bytes=60_000), tcp_like()]),
    st.integers(0, 1 << 32),
)
def test_every_message_arrives_once_the_network_is_sound_again(faults, flows, policy, seed):
    run = Simulation(NETWORK, policy=policy, seed=seed, faults=faults)
    result = run.run(flows, deadline=20.0)
    assert result.unfinished == ()
    assert [each.received for each in result.flows] == [each.size * each.count for each in flows]


@settings(max_examples=15)
@given(st.integers(2, 8), st.sampled_from([srd(paths=2), tcp_like()]), st.integers(0, 1 << 32))
def test_a_crowd_gets_through_a_short_queue(senders, policy, seed):
    flows = [Flow(f"h{index}", f"h{senders}", 100_000) for index in range(senders)]
    network = star(senders + 1, buffer=30_000)
    result = Simulation(network, policy=policy, seed=seed).run(flows, deadline=20.0)
    assert result.unfinished == ()
