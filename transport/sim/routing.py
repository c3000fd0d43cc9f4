"""The ways through a network: shortest, and chosen among equals once for each path.

Where several ports lead equally near to the destination, the choice is the same
for all packets of one path (ECMP does not reorder a flow), so a way is found
once, when a path is made, and packets then follow it. Ways never change:
routing protocols take seconds to notice what fails here in microseconds, and a
line that is silently dead they do not notice at all.
"""

from __future__ import annotations

from collections import Counter, deque
from itertools import pairwise
from typing import Final

from ..errors import UsageError
from .topology import Routing, Topology

_WORD: Final = (1 << 64) - 1


def mix(value: int) -> int:
    """A well-mixed 64-bit hash of an integer, the same everywhere (splitmix64)."""
    value = (value + 0x9E3779B97F4A7C15) & _WORD
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _WORD
    return value ^ value >> 31


class Routes:
    """Shortest ways between the hosts of a topology; `seed` varies the switches' hashes."""

    def __init__(self, topology: Topology, *, seed: int = 1) -> None:
        self._topology = topology
        self._seed = mix(seed & _WORD)
        self._numbers = {name: i for i, name in enumerate((*topology.hosts, *topology.switches))}
        self._beside: dict[str, list[str]] = {name: [] for name in self._numbers}
        for cable in topology.cables:
            self._beside[cable.a].append(cable.b)
            self._beside[cable.b].append(cable.a)
        self._hosts = frozenset(topology.hosts)
        self._tables: dict[str, dict[str, tuple[str, ...]]] = {}  # by the last switch

    def way(self, src: str, dst: str, entropy: int) -> tuple[str, ...]:
        """Names of the ports from one host to another; `entropy` selects among equal ways.

        Under `Routing.SPRAY`, consecutive values of `entropy` select every way in turn.

        Raises:
            UsageError: a host is unknown, or both are the same.
        """
        at, goal = self._ends(src, dst)
        table = self._table(goal)
        flow = mix(self._numbers[src] << 40 | self._numbers[dst] << 16 | entropy & 0xFFFF)
        spray = self._topology.routing is Routing.SPRAY
        nodes = [src, at]
        while at != goal:
            choices = table[at]
            if spray:
                entropy, chosen = divmod(entropy, len(choices))
            else:
                chosen = mix(flow ^ self._seed ^ self._numbers[at] << 20) % len(choices)
            at = choices[chosen]
            nodes.append(at)
        nodes.append(dst)
        return tuple(f"{a}>{b}" for a, b in pairwise(nodes))

    def count(self, src: str, dst: str) -> int:
        """How many shortest ways lead from one host to another.

        Raises:
            UsageError: a host is unknown, or both are the same.
        """
        at, goal = self._ends(src, dst)
        table = self._table(goal)
        reached = Counter({at: 1})
        while goal not in reached:  # all ways are equally long
            following: Counter[str] = Counter()
            for switch, ways in reached.items():
                for name in table[switch]:
                    following[name] += ways
            reached = following
        return reached[goal]

    def _ends(self, src: str, dst: str) -> tuple[str, str]:
        for name in (src, dst):
            if name not in self._hosts:
                raise UsageError(f"no host of this topology is named {name!r}")
        if src == dst:
            raise UsageError(f"there is no way from {src!r} to itself")
        return self._beside[src][0], self._beside[dst][0]

    def _table(self, goal: str) -> dict[str, tuple[str, ...]]:
        """For each switch, its neighbours that are one hop nearer to `goal`, in cable order."""
        known = self._tables.get(goal)
        if known is not None:
            return known
        hops = {goal: 0}
        waiting = deque([goal])
        while waiting:
            at = waiting.popleft()
            for name in self._beside[at]:
                if name not in hops and name not in self._hosts:
                    hops[name] = hops[at] + 1
                    waiting.append(name)
        table = self._tables[goal] = {
            at: tuple(name for name in self._beside[at] if hops.get(name) == far - 1)
            for at, far in hops.items()
        }
        return table
