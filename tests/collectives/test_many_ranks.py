"""`Group` of many ranks over real links: of eight and of twelve processes, and the cube of 64."""

from __future__ import annotations

import numpy as np
import pytest

from support.groups import SMALL, grouped, on_all
from support.many_ranks import wrong_results
from transport import Config

EIGHT = 8
COUNTS = (8, 96, 4000)
"""Numbers of a tensor, divisible by eight: at once, in halves, and around the ring."""


@pytest.fixture(scope="module")
def eight():
    with grouped(EIGHT, tuning=SMALL) as groups:
        yield groups


def numbers(rank, count):
    return np.random.default_rng([rank, count]).integers(-1000, 1000, count)


@pytest.mark.parametrize("count", COUNTS)
def test_eight_reduce(eight, count):
    total = sum(numbers(rank, count) for rank in range(EIGHT))
    highest = np.max([numbers(rank, count) for rank in range(EIGHT)], axis=0)

    def run(group):
        mine = numbers(group.rank, count)
        scattered = group.reduce_scatter(mine)
        reduced = [group.reduce(mine.copy(), "max", root=root) for root in (0, 5)]
        return group.all_reduce(mine), scattered, reduced

    for rank, (everything, scattered, reduced) in enumerate(on_all(eight, run)):
        assert (everything == total).all()
        assert (scattered == np.split(total, EIGHT)[rank]).all()
        for root, result in zip((0, 5), reduced, strict=True):
            assert result is None if rank != root else (result == highest).all()


@pytest.mark.parametrize("count", COUNTS)
def test_eight_move(eight, count):
    all_rows = np.stack([numbers(rank, count) for rank in range(EIGHT)])

    def run(group):
        mine = all_rows[group.rank]
        sent = mine.copy() if group.rank == 3 else np.zeros_like(mine)
        whole = {"array": all_rows} if group.rank == 6 else {"out": np.empty_like(all_rows[:1])}
        return (
            group.all_gather(mine),
            group.gather(mine, root=5),
            group.broadcast(sent, root=3),
            group.scatter(**whole, root=6),
        )

    for rank, (gathered, at_root, given, row) in enumerate(on_all(eight, run)):
        assert (np.reshape(gathered, all_rows.shape) == all_rows).all()
        if rank == 5:
            assert (np.reshape(at_root, all_rows.shape) == all_rows).all()
        else:
            assert at_root is None
        assert (given == all_rows[3]).all()
        assert (np.ravel(row) == all_rows[rank]).all()


@pytest.mark.parametrize("unit", [1, 40])
def test_eight_exchange_unevenly(eight, unit):
    """Rank i sends rank j so many rows; some send nothing, and some send nobody anything."""
    splits = np.random.default_rng(unit).integers(0, 4, (EIGHT, EIGHT)) * unit
    splits[2, :] = 0
    splits[:, 4] = 0

    def rows(source, target):
        return np.full((splits[source, target], 2), 100 * source + target)

    def run(group):
        return group.all_to_all(
            np.concatenate([rows(group.rank, target) for target in range(EIGHT)]),
            send_splits=splits[group.rank].tolist(),
            recv_splits=splits[:, group.rank].tolist(),
        )

    for rank, received in enumerate(on_all(eight, run)):
        expected = np.concatenate([rows(source, rank) for source in range(EIGHT)])
        assert received.shape == expected.shape
        assert (received == expected).all()


def test_eight_send_each_to_each_and_stand_in_line(eight):
    entered = []

    def run(group):
        others = [rank for rank in range(EIGHT) if rank != group.rank]
        works = [group.isend(numbers(group.rank, 50 + to), to, tag=to) for to in others]
        for source in others:
            received = group.recv(source=source, tag=group.rank)
            assert (received == numbers(source, 50 + group.rank)).all()
        for work in works:
            work.wait(20)
        entered.append(group.rank)
        group.barrier()
        return len(entered)

    assert on_all(eight, run) == [EIGHT] * EIGHT, "nobody leaves before everybody has entered"


@pytest.mark.slow
def test_sixteen_nodes():
    with grouped(16, tuning=SMALL) as groups:

        def run(group):
            for count in (3, 100, 2000):
                array = np.full(count, group.rank)
                group.all_reduce(array)
                assert (array == sum(range(16))).all()
            group.barrier()
            return group.all_gather(np.array([group.rank])).tolist()

        assert on_all(groups, run) == [list(range(16))] * 16
        # Links are made as the schedules need them, not between all pairs.
        assert all(len(group.node.stats().links) < 15 for group in groups)


@pytest.mark.slow
def test_sixty_four_nodes():
    """What crosses the edges of a cube: all other operations would need links of their own."""
    ranks = range(64)
    lean = Config(paths=1, shared_memory=False)  # half of what 192 links cost
    with grouped(64, config=lean, timeout=100.0, connect_timeout=60.0) as groups:

        def run(group):
            total = group.all_reduce(np.array([group.rank])).tolist()
            given = group.broadcast(np.array([group.rank + 7]), root=0).tolist()
            highest = group.reduce(np.array([group.rank]), "max", root=0)
            return total, given, highest

        for rank, (total, given, highest) in enumerate(on_all(groups, run)):
            assert total == [sum(ranks)]
            assert given == [7]
            assert highest is None if rank else highest.tolist() == [63]
        # One link for each dimension of the cube, out of 63.
        assert all(len(group.node.stats().links) == 6 for group in groups)


@pytest.mark.slow
def test_twelve_processes(tmp_path):
    """`make many-ranks` does the same with 64."""
    assert wrong_results(12, tmp_path) == []
