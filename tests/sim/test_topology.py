"""Topologies: what the usual ones are made of, and which are impossible."""

from __future__ import annotations

from collections import Counter

import pytest

from transport.errors import UsageError
from transport.sim import GBIT, Cable, Routing, Topology, fat_tree, leaf_spine, star, wide_area


def degrees(topology):
    return Counter(end for cable in topology.cables for end in (cable.a, cable.b))


def test_a_star_has_one_switch():
    topology = star(5, rate=25 * GBIT, delay=2e-6, buffer=99_999)
    assert topology.hosts == ("h0", "h1", "h2", "h3", "h4")
    assert topology.switches == ("s0",)
    assert topology.ports[:4] == ("h0>s0", "s0>h0", "h1>s0", "s0>h1")
    assert {(each.rate, each.delay, each.buffer) for each in topology.cables} == {
        (25 * GBIT, 2e-6, 99_999)
    }


@pytest.mark.parametrize(("leaves", "spines", "per_leaf"), [(2, 1, 1), (4, 3, 8), (8, 8, 4)])
def test_a_leaf_spine_joins_every_leaf_with_every_spine(leaves, spines, per_leaf):
    topology = leaf_spine(leaves, spines, per_leaf)
    assert len(topology.hosts) == leaves * per_leaf
    assert len(topology.cables) == leaves * (per_leaf + spines)
    count = degrees(topology)
    assert {count[name] for name in topology.switches if name.startswith("leaf")} == {
        per_leaf + spines
    }
    assert {count[name] for name in topology.switches if name.startswith("spine")} == {leaves}


def test_the_bisection_of_a_leaf_spine_is_its_uplinks():
    """Whatever half of the leaves is cut off, its uplinks are all that leads out."""
    leaves, spines, per_leaf = 4, 3, 6
    topology = leaf_spine(leaves, spines, per_leaf, rate=10 * GBIT, uplink_rate=40 * GBIT)
    half = {"leaf0", "leaf1"}
    out = sum(each.rate for each in topology.cables if each.a in half and each.b not in half)
    assert out == 2 * spines * 40 * GBIT
    offered = sum(each.rate for each in topology.cables if each.b in half)
    assert offered / out == per_leaf * 10 / (spines * 40)  # the oversubscription


@pytest.mark.parametrize("k", [2, 4, 8, 16])
def test_a_fat_tree_is_that_of_the_paper(k):
    topology = fat_tree(k)
    half = k // 2
    assert len(topology.hosts) == k**3 // 4
    assert len(topology.switches) == 5 * k**2 // 4
    assert len(topology.cables) == 3 * k**3 // 4
    count = degrees(topology)
    assert {count[name] for name in topology.switches} == {k}
    # Every core switch reaches each pod once.
    for core in (name for name in topology.switches if name.startswith("core")):
        pods = Counter(each.a.split(".")[0] for each in topology.cables if each.b == core)
        assert set(pods.values()) == {1}
        assert len(pods) == k
    assert sum(name.startswith("core") for name in topology.switches) == half**2


def test_a_wide_area_line_is_lossy_where_it_is_long():
    topology = wide_area(rate=1 * GBIT, delay=0.05, loss=0.01, host_rate=10 * GBIT)
    assert [(each.rate, each.delay, each.loss) for each in topology.cables] == [
        (10 * GBIT, 1e-6, 0.0),
        (1 * GBIT, 0.05, 0.01),
        (10 * GBIT, 1e-6, 0.0),
    ]


def test_any_other_network_can_be_stated():
    topology = Topology(
        hosts=["a", "b"],
        switches=["x"],
        cables=[Cable("a", "x", rate=GBIT), Cable("b", "x")],
        routing="spray",
    )
    assert topology.hosts == ("a", "b")
    assert topology.routing is Routing.SPRAY


def line(**changes):
    parts = {
        "hosts": ("a", "b"),
        "switches": ("x",),
        "cables": (Cable("a", "x"), Cable("b", "x")),
    }
    return Topology(**{**parts, **changes})


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: fat_tree(5), "even number of ports a switch, got k=5"),
        (lambda: fat_tree(0), "k must be a whole number, 2 or more, got 0"),
        (lambda: fat_tree(4.0), "got 4.0"),
        (lambda: star(0), "hosts must be a whole number, 1 or more, got 0"),
        (lambda: leaf_spine(0, 1, 1), "leaves must be"),
        (lambda: leaf_spine(1, 0, 1), "spines must be"),
        (lambda: leaf_spine(1, 1, -2), "hosts_per_leaf must be .* got -2"),
        (lambda: star(2, rate=0), "rate of 1000 bit/s or more, got 0"),
        (lambda: star(2, rate=float("inf")), "got inf"),
        (lambda: star(2, rate=float("nan")), "got nan"),
        (lambda: star(2, delay=-1e-6), "delay of 0 s or more, got -1e-06"),
        (lambda: star(2, delay=float("nan")), "delay of 0 s or more, got nan"),
        (lambda: star(2, buffer=0), "buffer of 1 byte or more, got 0"),
        (lambda: star(2, overhead=-1), "overhead must be 0 bytes or more, got -1"),
        (lambda: star(2, routing="random"), "one of 'ecmp', 'spray', got 'random'"),
        (lambda: wide_area(delay=1, loss=1.0), "loss in 0..1, below 1, got 1.0"),
        (lambda: Cable("a", "a"), "two different nodes"),
        (lambda: line(hosts=()), "at least one host"),
        (lambda: line(hosts=("a", "a")), "'a' is listed twice"),
        (lambda: line(switches=("x", "b")), "'b' is listed twice"),
        (lambda: line(hosts=("a", "b/1")), "no '/' or '>', got 'b/1'"),
        (lambda: line(switches=("x", "y")), "'y' cannot be reached from 'a'"),
        (lambda: line(cables=(Cable("a", "x"),)), "'b' must have exactly one cable, got 0"),
        (
            lambda: line(cables=(Cable("a", "x"), Cable("b", "x"), Cable("x", "b"))),
            "two cables|exactly one cable, got 2",
        ),
        (lambda: line(cables=(Cable("a", "b"),)), "joins two hosts without a switch"),
        (lambda: line(cables=(Cable("a", "q"),)), "ends at unknown node 'q'"),
        (
            lambda: line(switches=("x", "y"), cables=(Cable("x", "y"), Cable("x", "y"))),
            "two cables x-y",
        ),
    ],
)
def test_impossible_networks_are_refused(make, text):
    with pytest.raises(UsageError, match=text):
        make()
