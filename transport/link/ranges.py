"""Sets of integers kept as sorted, disjoint, half-open ranges."""

from __future__ import annotations

from bisect import bisect_left, bisect_right


class RangeSet:
    """A set of integers; adding to its end is constant time.

    Used for packet numbers received and for the bytes of a message that are in
    place. Invariant: `starts` and `ends` ascend, and ranges neither touch nor overlap.
    """

    __slots__ = ("_ends", "_starts", "total")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.total = 0
        """How many integers the set holds."""

    def __repr__(self) -> str:
        return f"RangeSet({list(zip(self._starts, self._ends, strict=True))})"

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def end(self) -> int:
        """One more than the highest integer; 0 where there is none."""
        return self._ends[-1] if self._ends else 0

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._starts, number) - 1
        return at >= 0 and number < self._ends[at]

    def overlaps(self, start: int, end: int) -> bool:
        """Whether any integer of `start..end-1` is in the set."""
        ends = self._ends
        if not ends or start >= ends[-1]:
            return False
        at = bisect_right(ends, start)
        return at < len(ends) and self._starts[at] < end

    def add(self, start: int, end: int) -> None:
        """Add `start..end-1`; what was there stays."""
        starts, ends = self._starts, self._ends
        if not ends or start > ends[-1]:
            starts.append(start)
            ends.append(end)
            self.total += end - start
            return
        if start == ends[-1]:
            ends[-1] = end
            self.total += end - start
            return
        low = bisect_left(ends, start)
        high = bisect_right(starts, end)
        if low < high:
            start = min(start, starts[low])
            end = max(end, ends[high - 1])
            self.total -= sum(ends[low:high]) - sum(starts[low:high])
        starts[low:high] = [start]
        ends[low:high] = [end]
        self.total += end - start

    def trim(self, below: int) -> None:
        """Forget every integer less than `below`."""
        starts, ends = self._starts, self._ends
        if not starts or starts[0] >= below:
            return
        gone = bisect_right(ends, below)
        self.total -= sum(ends[:gone]) - sum(starts[:gone])
        del starts[:gone], ends[:gone]
        if starts and starts[0] < below:
            self.total -= below - starts[0]
            starts[0] = below

    def descending(self, limit: int) -> list[tuple[int, int]]:
        """The highest `limit` ranges as closed pairs, highest first."""
        starts, ends = self._starts, self._ends
        if len(starts) == 1:
            return [(starts[0], ends[0] - 1)]
        return [
            (start, end - 1)
            for start, end in zip(starts[: -limit - 1 : -1], ends[: -limit - 1 : -1], strict=True)
        ]
