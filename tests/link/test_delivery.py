"""The highest of the last rounds, against a list that forgets nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from transport.link.delivery import MaxFilter

SPAN = 4


class Naive:
    """All values, with their rounds; the last one stays whatever its age."""

    def __init__(self) -> None:
        self.values: list[tuple[int, float]] = []

    def add(self, number: int, value: float) -> None:
        self.values.append((number, value))
        self.expire(number)

    def expire(self, number: int) -> None:
        last = self.values[-1:]
        self.values = [each for each in self.values[:-1] if each[0] > number - SPAN] + last

    @property
    def value(self) -> float:
        return max((value for _, value in self.values), default=0.0)


# What happens, and how many rounds after the thing before.
steps = st.lists(
    st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 20).map(float)), max_size=60
)


@given(steps)
def test_the_filter_agrees_with_a_list_of_all_values(course: list[tuple[bool, int, float]]) -> None:
    kept, naive = MaxFilter(SPAN), Naive()
    number = 0
    for add, later, value in course:
        number += later
        for each in (kept, naive):
            if add:
                each.add(number, value)
            else:
                each.expire(number)
        assert kept.value == naive.value


@given(steps, st.integers(0, 20).map(float))
def test_after_forgetting_the_value_is_no_higher_unless_it_is_the_last_one(
    course: list[tuple[bool, int, float]], limit: float
) -> None:
    kept, number, last = MaxFilter(SPAN), 0, 0.0
    for add, later, value in course:
        number += later
        if add:
            kept.add(number, value)
            last = value
            continue
        before = kept.value
        kept.forget_above(limit)
        assert kept.value <= max(limit, last)
        assert last <= kept.value <= before
        assert kept.value == before or before > limit


def test_without_a_value_it_is_nothing() -> None:
    kept = MaxFilter(SPAN)
    kept.expire(100)
    kept.forget_above(0.0)
    assert kept.value == 0.0


def test_a_peak_is_remembered_for_the_span_and_no_longer() -> None:
    kept = MaxFilter(SPAN)
    kept.add(0, 100.0)
    seen = []
    for number in range(1, 7):
        kept.add(number, 10.0 - number)
        seen.append(kept.value)
    assert seen == [100.0, 100.0, 100.0, 9.0, 8.0, 7.0]


def test_the_last_value_stays_however_old_it_is() -> None:
    kept = MaxFilter(SPAN)
    kept.add(0, 5.0)
    kept.expire(1000)
    assert kept.value == 5.0
    kept.add(1001, 3.0)
    assert kept.value == 3.0
