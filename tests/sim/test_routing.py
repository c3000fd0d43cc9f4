"""Ways through a network: how many there are, how evenly and how steadily they are chosen."""

from __future__ import annotations

import itertools
import math
import random
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.source_tree import PROJECT_ROOT
from transport.errors import UsageError
from transport.sim import Cable, Routes, Topology, fat_tree, leaf_spine, star
from transport.sim.routing import mix


def test_the_hash_is_splitmix64():
    """The first outputs of the generator of Vigna's reference, seeded with 0."""
    step = 0x9E3779B97F4A7C15
    first = [mix(index * step % 2**64) for index in range(3)]
    assert first == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@pytest.mark.parametrize("k", [2, 4, 8])
def test_a_fat_tree_has_as_many_ways_as_the_paper_says(k):
    routes, half = Routes(fat_tree(k)), k // 2
    other_pod = f"h{half * half}"
    assert routes.count("h0", other_pod) == half**2
    if half > 1:
        assert routes.count("h0", f"h{half}") == half  # another edge switch of the pod
        assert routes.count("h0", "h1") == 1  # the same edge switch


def test_a_leaf_spine_has_a_way_over_each_spine():
    routes = Routes(leaf_spine(3, 5, 2))
    assert routes.count("h0", "h2") == 5
    assert routes.count("h0", "h1") == 1
    assert routes.count("h5", "h0") == 5


def test_only_shortest_ways_count():
    #  a - x - y - b, and a detour x - z - y
    topology = Topology(
        hosts=("a", "b"),
        switches=("x", "y", "z"),
        cables=(
            Cable("a", "x"),
            Cable("x", "z"),
            Cable("z", "y"),
            Cable("x", "y"),
            Cable("y", "b"),
        ),
    )
    routes = Routes(topology)
    assert routes.count("a", "b") == 1
    assert {routes.way("a", "b", entropy) for entropy in range(50)} == {("a>x", "x>y", "y>b")}


@given(st.integers(0, 127), st.integers(0, 127), st.integers(0, 1 << 16), st.sampled_from("es"))
def test_every_way_leads_from_port_to_port_to_its_end(src, dst, entropy, kind):
    topology = FAT[kind]
    if src == dst:
        return
    way = Routes(topology).way(f"h{src}", f"h{dst}", entropy)
    assert set(way) <= set(topology.ports)
    ends = [port.split(">") for port in way]
    assert ends[0][0] == f"h{src}"
    assert ends[-1][1] == f"h{dst}"
    assert all(a[1] == b[0] for a, b in itertools.pairwise(ends))
    pods = len({src // 16, dst // 16})
    assert len(way) == (6 if pods == 2 else 4 if src // 4 != dst // 4 else 2)


FAT = {"e": fat_tree(8), "s": fat_tree(8, routing="spray")}


def test_a_hashed_flow_keeps_its_way():
    topology = fat_tree(8)
    for entropy in range(100):
        ways = {Routes(topology, seed=9).way("h0", "h100", entropy) for _ in range(3)}
        assert len(ways) == 1


def test_hashing_spreads_flows_evenly():
    """Each way of sixteen gets its binomial share, and each seed another assignment."""
    routes = Routes(fat_tree(8), seed=3)
    flows, ways = 8000, 16
    chance = random.Random(5)
    taken = Counter(routes.way("h0", "h100", chance.getrandbits(16)) for _ in range(flows))
    assert len(taken) == ways
    allowed = 6 * math.sqrt(flows / ways)
    assert all(abs(count - flows / ways) < allowed for count in taken.values()), taken
    other = Routes(fat_tree(8), seed=4)
    moved = sum(routes.way("h0", "h100", e) != other.way("h0", "h100", e) for e in range(800))
    assert abs(moved - 800 * 15 / 16) < 50


def test_tiers_choose_independently():
    """No polarisation: flows that share an aggregation switch still use all its cores."""
    routes = Routes(fat_tree(8), seed=3)
    by_first: dict[str, set[str]] = {}
    for entropy in range(2000):
        way = routes.way("h0", "h100", entropy)
        by_first.setdefault(way[1], set()).add(way[2])
    assert [len(cores) for cores in by_first.values()] == [4, 4, 4, 4]


@pytest.mark.parametrize("first", [0, 7, 65530])
def test_spraying_uses_every_way_once_a_turn(first):
    routes = Routes(fat_tree(8, routing="spray"))
    ways = [routes.way("h0", "h100", first + index) for index in range(32)]
    assert len(set(ways[:16])) == 16
    assert ways[:16] == ways[16:]


def test_the_same_ways_in_every_process():
    program = (
        "from transport.sim import Routes, fat_tree\n"
        "routes = Routes(fat_tree(8), seed=3)\n"
        "print([routes.way('h0', f'h{dst}', dst * 77) for dst in range(1, 128)])"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=PROJECT_ROOT,
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


def test_unknown_hosts_and_ways_to_oneself_are_refused():
    routes = Routes(star(2))
    with pytest.raises(UsageError, match="no host of this topology is named 'h2'"):
        routes.way("h0", "h2", 0)
    with pytest.raises(UsageError, match="no host of this topology is named 's0'"):
        routes.count("s0", "h1")
    with pytest.raises(UsageError, match="no way from 'h1' to itself"):
        routes.way("h1", "h1", 0)
