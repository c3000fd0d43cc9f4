"""Schedules that reduce, carried out in memory for 1 to 64 ranks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.schedules import carry_out
from transport.collectives import reducing
from transport.collectives.operands import even_bounds
from transport.collectives.steps import Buffer
from transport.collectives.tuning import Tuning

SIZES = (*range(1, 18), 32, 64)
INPUT, WORK = Buffer.INPUT, Buffer.WORK
ALL_REDUCE = (
    reducing.ring_all_reduce,
    reducing.doubling_all_reduce,
    reducing.halving_all_reduce,
)
SMALL_PIECES = Tuning(piece=24, inline=16, ahead=2)
seeds = st.integers(0, 2**32)


def contributions(size, count, dtype=np.float32):
    random = np.random.default_rng([size, count])
    if np.issubdtype(dtype, np.integer):
        return [random.integers(-(2**40), 2**40, count, dtype) for _ in range(size)]
    return [random.standard_normal(count).astype(dtype) for _ in range(size)]


def add(left, right, out, final):
    np.add(left, right, out=out)


def all_reduce(algorithm, given_arrays, *, in_place, seed=0, synchronous=True, tuning=SMALL_PIECES):
    """Return every rank's result, and the wire."""
    size, count = len(given_arrays), given_arrays[0].size
    source = WORK if in_place else INPUT
    schedules = [algorithm(rank, size, source) for rank in range(size)]
    works = [given.copy() if in_place else np.full_like(given, 77) for given in given_arrays]
    inputs = [given.copy() for given in given_arrays]
    memory = []
    for rank, schedule in enumerate(schedules):
        bounds = even_bounds(count, schedule.blocks, 1)
        memory.append({WORK: (works[rank], bounds)})
        if not in_place:
            memory[rank][INPUT] = (inputs[rank], bounds)
    wire = carry_out(
        schedules, memory, add, seed=seed, synchronous=synchronous, tuning=tuning, slot=count
    )
    assert all(map(np.array_equal, inputs, given_arrays)), "inputs are only read"
    return works, wire


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("algorithm", ALL_REDUCE, ids=lambda each: each.__name__)
def test_every_rank_has_the_same_sum(algorithm, size):
    given_arrays = contributions(size, 2 * size + 3, np.int64)
    for in_place in (True, False) if size < 32 else (size == 32,):
        works, _ = all_reduce(algorithm, given_arrays, in_place=in_place)
        for work in works:
            assert np.array_equal(work, sum(given_arrays))


@pytest.mark.parametrize("algorithm", ALL_REDUCE, ids=lambda each: each.__name__)
@given(
    size=st.integers(1, 17),
    count=st.integers(0, 70),
    in_place=st.booleans(),
    synchronous=st.booleans(),
    runs=st.tuples(seeds, seeds),
)
@settings(max_examples=40)
def test_floats_have_the_same_bits_on_every_rank_and_in_every_run(
    algorithm, size, count, in_place, synchronous, runs
):
    given_arrays = contributions(size, count)
    outcomes = [
        all_reduce(algorithm, given_arrays, in_place=in_place, seed=seed, synchronous=synchronous)[
            0
        ]
        for seed in runs
    ]
    first = outcomes[0][0]
    assert np.allclose(first, np.sum(given_arrays, axis=0, dtype=np.float64), atol=1e-4)
    for works in outcomes:
        for work in works:
            assert work.tobytes() == first.tobytes()


@pytest.mark.parametrize("algorithm", ALL_REDUCE, ids=lambda each: each.__name__)
@pytest.mark.parametrize("size", [2, 5, 8])
def test_pieces_do_not_change_the_bits(algorithm, size):
    given_arrays = contributions(size, 500)
    whole, _ = all_reduce(algorithm, given_arrays, in_place=True, tuning=Tuning())
    cut, _ = all_reduce(algorithm, given_arrays, in_place=True, tuning=SMALL_PIECES)
    assert whole[0].tobytes() == cut[0].tobytes()


@pytest.mark.parametrize("size", [2, 3, 8, 13])
def test_the_ring_sends_no_more_than_it_must(size):
    count = 60 * size
    _, wire = all_reduce(
        reducing.ring_all_reduce, contributions(size, count), in_place=True, tuning=Tuning(inline=0)
    )
    per_rank = 4 * count * 2 * (size - 1) / size
    assert wire.bytes == size * per_rank


@pytest.mark.parametrize("size", [2, 4, 8, 16, 64])
def test_halving_sends_no_more_than_the_ring(size):
    schedules = [reducing.halving_all_reduce(rank, size, WORK) for rank in range(size)]
    for schedule in schedules:
        sent = sum(s.extent.last - s.extent.first for s in schedule.steps if s.kind.name == "SEND")
        assert sent == 2 * (size - 1)
        assert len(schedule.peers) == int(math.log2(size))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "algorithm",
    [reducing.ring_reduce_scatter, reducing.direct_reduce_scatter],
    ids=lambda each: each.__name__,
)
def test_reduce_scatter_leaves_each_rank_its_block(algorithm, size):
    block = 13
    given_arrays = contributions(size, size * block, np.int64)
    outs = [np.zeros(block, np.int64) for _ in range(size)]
    memory = [
        {
            INPUT: (given_arrays[rank].copy(), [block * number for number in range(size + 1)]),
            WORK: (outs[rank], [0, block]),
        }
        for rank in range(size)
    ]
    schedules = [algorithm(rank, size) for rank in range(size)]
    carry_out(schedules, memory, add, seed=size, synchronous=True, tuning=SMALL_PIECES, slot=block)
    for rank in range(size):
        assert np.array_equal(outs[rank], sum(given_arrays)[rank * block : (rank + 1) * block])
        assert np.array_equal(memory[rank][INPUT][0], given_arrays[rank])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "algorithm", [reducing.tree_reduce, reducing.chain_reduce], ids=lambda each: each.__name__
)
@pytest.mark.parametrize("source", [INPUT, WORK])
def test_reduce_leaves_the_result_at_the_root_alone(algorithm, size, source):
    for root in {0, size // 2, size - 1}:
        given_arrays = contributions(size, 31, np.int64)
        kept = [given.copy() for given in given_arrays]
        result = kept[root] if source is WORK else np.zeros(31, np.int64)
        memory = [{INPUT: (kept[rank], [0, 31])} for rank in range(size)]
        memory[root][WORK] = (result, [0, 31])
        schedules = [
            algorithm(rank, size, root, source if rank == root else INPUT) for rank in range(size)
        ]
        carry_out(schedules, memory, add, seed=root, synchronous=True, tuning=SMALL_PIECES, slot=31)
        assert np.array_equal(result, sum(given_arrays))
        for rank in range(size):
            if rank != root:
                assert np.array_equal(kept[rank], given_arrays[rank])


@pytest.mark.parametrize("size", [1, 2, 3, 6, 8])
def test_every_element_is_completed_once(size):
    """`final` is what divides for an average: once for each element of a result."""
    count = 40

    def mark(left, right, out, final):
        np.add(left, right, out=out)
        if final:
            out += 1000

    for algorithm in ALL_REDUCE:
        works = [np.ones(count) for _ in range(size)]
        schedules = [algorithm(rank, size, WORK) for rank in range(size)]
        memory = [
            {WORK: (work, even_bounds(count, schedule.blocks, 1))}
            for work, schedule in zip(works, schedules, strict=True)
        ]
        carry_out(schedules, memory, mark, seed=1, synchronous=False, tuning=SMALL_PIECES)
        expected = 1.0 if size == 1 else size + 1000.0
        assert all((work == expected).all() for work in works)
