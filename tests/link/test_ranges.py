"""`RangeSet` against the set of integers that it stands for."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from transport.link.ranges import RangeSet

numbers = st.integers(0, 60)


def ranges_of(model: set[int]) -> list[tuple[int, int]]:
    """Maximal runs as closed pairs, highest first."""
    runs: list[tuple[int, int]] = []
    for number in sorted(model):
        if runs and runs[-1][1] == number - 1:
            runs[-1] = runs[-1][0], number
        else:
            runs.append((number, number))
    return runs[::-1]


class AgainstASet(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ranges = RangeSet()
        self.model: set[int] = set()

    @rule(start=numbers, size=st.integers(1, 12))
    def add(self, start: int, size: int) -> None:
        self.ranges.add(start, start + size)
        self.model |= set(range(start, start + size))

    @rule(below=st.integers(0, 75))
    def trim(self, below: int) -> None:
        self.ranges.trim(below)
        self.model = {number for number in self.model if number >= below}

    @rule(start=numbers, size=st.integers(1, 12))
    def overlaps(self, start: int, size: int) -> None:
        expected = bool(self.model & set(range(start, start + size)))
        assert self.ranges.overlaps(start, start + size) is expected

    @rule(limit=st.integers(1, 20))
    def descending(self, limit: int) -> None:
        assert self.ranges.descending(limit) == ranges_of(self.model)[:limit]

    @invariant()
    def agrees(self) -> None:
        assert self.ranges.total == len(self.model)
        assert len(self.ranges) == len(ranges_of(self.model))
        assert self.ranges.end == max(self.model, default=-1) + 1
        assert [number for number in range(80) if number in self.ranges] == sorted(self.model)


TestAgainstASet = AgainstASet.TestCase
TestAgainstASet.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@given(st.permutations(range(40)))
def test_all_orders_end_in_one_range(order: list[int]) -> None:
    ranges = RangeSet()
    for number in order:
        assert not ranges.overlaps(number, number + 1)
        ranges.add(number, number + 1)
    assert ranges.descending(5) == [(0, 39)]
    assert len(ranges) == 1


def test_an_empty_set_has_nothing() -> None:
    ranges = RangeSet()
    ranges.trim(10)
    assert ranges.descending(3) == []
    assert (ranges.total, ranges.end, len(ranges)) == (0, 0, 0)
    assert not ranges.overlaps(0, 1 << 64)
    assert 0 not in ranges
    assert repr(ranges) == "RangeSet([])"


def test_large_numbers_are_like_any_other() -> None:
    ranges = RangeSet()
    top = (1 << 64) - 1
    ranges.add(top, top + 1)
    ranges.add(0, 5)
    assert ranges.descending(2) == [(top, top), (0, 4)]
    assert repr(ranges) == f"RangeSet([(0, 5), ({top}, {top + 1})])"
