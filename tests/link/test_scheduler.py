"""Which path a packet takes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from transport.link.paths import PathState
from transport.link.scheduler import LIGHT, LeastLoaded


def paths(*loads: int) -> list[PathState]:
    made = []
    for index, load in enumerate(loads):
        path = PathState(index, object(), "", 0.0)
        path.joined = True
        path.in_flight_bytes = load
        made.append(path)
    return made


def test_the_least_loaded_path_is_taken_and_then_the_lowest_index() -> None:
    scheduler = LeastLoaded()
    some = paths(LIGHT + 5, LIGHT + 3, LIGHT + 3, LIGHT + 4)
    assert scheduler.choose(some, 100, 0.0) is some[1]


def test_a_light_load_is_none_so_small_packets_stay_on_one_path() -> None:
    some = paths(LIGHT, LIGHT - 1, 0)
    assert LeastLoaded().choose(some, 100, 0.0) is some[1]


def test_the_path_that_lost_the_packet_is_avoided_while_there_is_another() -> None:
    scheduler = LeastLoaded()
    some = paths(0, 1_000_000)
    assert scheduler.choose(some, 100, 0.0, avoid=some[0]) is some[1]
    some[1].up = False
    assert scheduler.choose(some, 100, 0.0, avoid=some[0]) is some[0]


def test_a_suspected_path_is_the_last_choice_but_a_choice() -> None:
    scheduler = LeastLoaded()
    some = paths(0, 1_000_000)
    some[0].suspect("late")
    assert scheduler.choose(some, 100, 0.0) is some[1]
    assert scheduler.choose(some, 100, 0.0, avoid=some[1]) is some[1]
    some[1].suspect("late")
    assert scheduler.choose(some, 100, 0.0) is some[0]


def test_without_a_usable_path_there_is_none() -> None:
    scheduler = LeastLoaded()
    some = paths(0, 0)
    some[0].up = False
    some[1].joined = False
    assert scheduler.choose(some, 100, 0.0) is None
    assert scheduler.choose([], 100, 0.0) is None


path_facts = st.tuples(st.booleans(), st.booleans(), st.booleans(), st.integers(0, 2 * LIGHT))


@given(st.lists(path_facts, max_size=8), st.integers(0, 7))
def test_what_is_chosen_is_usable_and_nothing_better_was_left(
    facts: list[tuple[bool, bool, bool, int]], avoided: int
) -> None:
    some = paths(*(load for *_, load in facts))
    for path, (up, joined, suspected, _) in zip(some, facts, strict=True):
        path.up, path.joined, path.suspected = up, joined, suspected
    avoid = some[avoided] if avoided < len(some) else None
    chosen = LeastLoaded().choose(some, 1, 0.0, avoid=avoid)
    usable = [path for path in some if path.usable]
    assert (chosen is None) is (not usable)
    if chosen is not None:
        assert chosen in usable

        def rank(path: PathState) -> tuple[bool, bool, int, int]:
            good = not path.suspected and path is not avoid
            load = 0 if good and path.in_flight_bytes < LIGHT else path.in_flight_bytes
            return path.suspected, path is avoid, load, path.index

        assert chosen is min(usable, key=rank)
