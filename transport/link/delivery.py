"""The highest delivery rate of the last few round trips: what the bottleneck can carry."""

from __future__ import annotations

from collections import deque


class MaxFilter:
    """The maximum of the values given in the last `span` rounds.

    A value that is followed by a higher one never matters again, so only a
    descending sequence is kept: the head is the maximum.
    """

    __slots__ = ("_span", "_values")

    def __init__(self, span: int) -> None:
        self._span = span
        self._values: deque[tuple[int, float]] = deque()  # round and value, values descending

    def add(self, round_number: int, value: float) -> None:
        """Take a value of a round; rounds never go back."""
        values = self._values
        while values and values[-1][1] <= value:
            values.pop()
        values.append((round_number, value))
        self.expire(round_number)

    def expire(self, round_number: int) -> None:
        """Forget what is older than the span; the last value stays whatever its age."""
        values = self._values
        while len(values) > 1 and values[0][0] <= round_number - self._span:
            values.popleft()

    def forget_above(self, value: float) -> None:
        """Something says that the present value is the true one: drop higher ones."""
        values = self._values
        while len(values) > 1 and values[0][1] > value:
            values.popleft()

    @property
    def value(self) -> float:
        """The maximum; 0 before the first value."""
        return self._values[0][1] if self._values else 0.0
