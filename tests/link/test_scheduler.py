"""Which path a packet takes: turns, two choices, and what is left out for how long."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from transport.link.paths import PathState
from transport.link.scheduler import PATIENCE, TURN, Scheduler, Spray

LARGE = 1 << 20  # a packet that is a turn by itself
USUAL = 0.01


def paths(*loads: int) -> list[PathState]:
    made = []
    for index, load in enumerate(loads):
        path = PathState(index, object(), "", 0.0)
        path.joined = True
        path.in_flight_bytes = load
        made.append(path)
    return made


def chosen(
    scheduler: Scheduler, some: list[PathState], count: int, *, size: int = LARGE, now: float = 0.0
) -> list[int]:
    """The paths of so many packets, each of which stays in flight."""
    indices = []
    for _ in range(count):
        path = scheduler.choose(some, size, now)
        assert path is not None
        path.in_flight_bytes += size
        indices.append(path.index)
    return indices


def used_to(some: list[PathState], rtt: float = USUAL) -> Spray:
    """A scheduler that has seen every path answer after the same time."""
    spray = Spray(LARGE)
    for _ in range(50):
        for path in some:
            spray.on_acknowledged(path, rtt, 0.0)
    return spray


# --- turns ---------------------------------------------------------------------------------


def test_every_path_carries_the_same_where_all_are_alike() -> None:
    some = paths(*[0] * 8)
    indices = chosen(Spray(LARGE), some, 800)
    assert all(indices.count(index) == 100 for index in range(8))


def test_of_the_next_two_in_turn_the_one_with_less_in_flight_is_taken() -> None:
    for loads in ((7, 500, 300, 1), (500, 7, 300, 1), (9, 9, 9, 9)):
        some = paths(*loads)
        path = Spray(LARGE).choose(some, LARGE, 0.0)
        assert path is (some[1] if loads[1] <= loads[2] else some[2])
    some = paths(3, 0, 0, 0)
    some[1].up = some[2].up = some[3].up = False
    assert Spray(LARGE).choose(some, LARGE, 0.0) is some[0]


def test_uneven_loads_become_more_even() -> None:
    some = paths(0, 5 * LARGE, 11 * LARGE, 40 * LARGE)
    indices = chosen(Spray(LARGE), some, 40)
    assert 3 not in indices, "it had the most all the time"
    chosen(Spray(LARGE), some, 400)
    loads = [path.in_flight_bytes for path in some]
    assert max(loads) - min(loads) < 40 * LARGE / 2


def test_small_packets_share_a_path_until_they_fill_a_turn() -> None:
    some = paths(0, 0, 0, 0)
    indices = chosen(Spray(LARGE), some, 4 * TURN // 100, size=100)
    changes = sum(before != after for before, after in pairwise(indices))
    assert 3 <= changes <= 4
    assert set(indices) == {0, 1, 2, 3}


def test_a_turn_is_never_longer_than_one_packet_where_packets_are_small() -> None:
    some = paths(0, 0, 0, 0)
    indices = chosen(Spray(8192), some, 100, size=8192)
    assert all(before != after for before, after in pairwise(indices))


def test_links_that_start_elsewhere_do_not_all_take_the_same_path_first() -> None:
    firsts = set()
    for start in range(16):
        firsts.add(chosen(Spray(LARGE, start=start), paths(*[0] * 16), 1)[0])
    assert len(firsts) == 16


# --- silent and missing paths --------------------------------------------------------------


def test_the_path_that_lost_the_packet_is_avoided_while_there_is_another() -> None:
    some = paths(0, 1_000_000)
    spray = Spray(LARGE)
    for _ in range(5):
        assert spray.choose(some, 100, 0.0, avoid=some[0]) is some[1]
    some[1].up = False
    assert spray.choose(some, 100, 0.0, avoid=some[0]) is some[0]


def test_the_turn_ends_where_the_path_fails_in_its_midst() -> None:
    some = paths(0, 0, 0)
    for fail in ("suspect", "down", "avoid"):
        spray = Spray(LARGE)
        first = spray.choose(some, 100, 0.0)
        assert first is not None
        assert spray.choose(some, 100, 0.0) is first
        if fail == "suspect":
            first.suspect("late")
        elif fail == "down":
            first.up = False
        other = spray.choose(some, 100, 0.0, avoid=first if fail == "avoid" else None)
        assert other is not first
        first.trust()
        first.up = True


def test_a_suspected_path_is_the_last_choice_but_a_choice() -> None:
    some = paths(0, 1_000_000)
    some[0].suspect("late")
    spray = Spray(LARGE)
    assert spray.choose(some, 100, 0.0) is some[1]
    assert spray.choose(some, 100, 0.0, avoid=some[1]) is some[1]
    some[1].suspect("late")
    assert spray.choose(some, 100, 0.0) is some[0]


def test_without_a_usable_path_there_is_none() -> None:
    some = paths(0, 0)
    some[0].up = False
    some[1].joined = False
    assert Spray(LARGE).choose(some, 100, 0.0) is None
    assert Spray(LARGE).choose([], 100, 0.0) is None


# --- slow paths -----------------------------------------------------------------------------


def test_a_path_that_alone_is_slow_is_left_out_ever_longer() -> None:
    some = paths(0, 0, 0, 0)
    spray = used_to(some)
    now, pauses = 1.0, []
    for _ in range(12):
        spray.on_acknowledged(some[2], 5 * USUAL, now)
        pauses.append(some[2].slow_until - now)
        assert 2 not in chosen(spray, some, 50, now=now)
        assert 2 not in chosen(spray, some, 50, now=some[2].slow_until - 1e-9)
        now = some[2].slow_until
        assert 2 in chosen(spray, some, 400, now=now), "it is tried again"
        for _ in range(30):
            for path in (some[0], some[1], some[3]):
                spray.on_acknowledged(path, USUAL, now)
    assert pauses[:4] == sorted(pauses[:4])
    assert pauses[0] < 1.5 * USUAL
    assert max(pauses) <= PATIENCE * 1.5 * USUAL
    assert pauses[-1] > PATIENCE * 0.5 * USUAL


def test_a_path_that_is_quick_again_has_its_turns_at_once() -> None:
    some = paths(0, 0, 0, 0)
    spray = used_to(some)
    for _ in range(3):
        spray.on_acknowledged(some[2], 5 * USUAL, max(1.0, some[2].slow_until))
    now = some[2].slow_until - USUAL
    spray.on_acknowledged(some[2], USUAL, now)
    indices = chosen(spray, some, 400, now=now)
    assert indices.count(2) == 100


def test_where_all_become_slow_none_is_slower_than_is_usual() -> None:
    """That is the network's congestion: to move from path to path does not help."""
    some = paths(*[0] * 8)
    spray = used_to(some)
    now = 1.0
    for _ in range(100):
        now += USUAL
        for path in some:
            spray.on_acknowledged(path, 10 * USUAL, now)
    assert all(path.slow_until <= now for path in some)
    indices = chosen(spray, some, 800, now=now)
    assert all(indices.count(index) == 100 for index in range(8))


def test_where_all_are_left_out_the_emptiest_is_taken() -> None:
    some = paths(300, 100, 200)
    for path in some:
        path.slow_until = 9.0
    assert Spray(LARGE).choose(some, LARGE, 1.0) is some[1]


# --- any state ------------------------------------------------------------------------------

path_facts = st.tuples(
    st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.integers(0, 1000)
)


@given(st.lists(path_facts, max_size=8), st.integers(0, 7), st.integers(0, 300))
def test_what_is_chosen_is_usable_and_nothing_sound_was_passed_over(
    facts: list[tuple[bool, bool, bool, bool, int]], avoided: int, start: int
) -> None:
    some = paths(*(load for *_, load in facts))
    for path, (up, joined, suspected, slow, _) in zip(some, facts, strict=True):
        path.up, path.joined, path.suspected = up, joined, suspected
        path.slow_until = 2.0 if slow else 0.5
    avoid = some[avoided] if avoided < len(some) else None
    path = Spray(LARGE, start).choose(some, 1, 1.0, avoid=avoid)
    usable = [each for each in some if each.usable]
    assert (path is None) is (not usable)
    if path is None:
        return
    assert path in usable
    sound = [each for each in usable if not each.suspected and each is not avoid]
    quick = [each for each in sound if each.slow_until <= 1.0]
    assert path in (quick or sound or usable)
    if not quick:
        best = min((each.suspected, each is avoid, each.in_flight_bytes) for each in usable)
        assert (path.suspected, path is avoid, path.in_flight_bytes) == best
