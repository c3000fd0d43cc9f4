"""Schedules that move data, carried out in memory for 1 to 64 ranks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.schedules import carry_out
from transport.collectives import moving
from transport.collectives.operands import split_bounds
from transport.collectives.steps import Buffer, Kind
from transport.collectives.tuning import Tuning

SIZES = (*range(1, 18), 32, 64)
INPUT, WORK = Buffer.INPUT, Buffer.WORK
SMALL_PIECES = Tuning(piece=24, inline=16, ahead=2)
BLOCK = 17
names = {"ids": lambda each: each.__name__}


def block_of(rank):
    return np.arange(BLOCK, dtype=np.int32) + 1000 * rank


def run(schedules, memory, seed=0, synchronous=True):
    def never(left, right, out, final):
        raise AssertionError("nothing is reduced here")

    return carry_out(
        schedules, memory, never, seed=seed, synchronous=synchronous, tuning=SMALL_PIECES
    )


def joined(size):
    return np.concatenate([block_of(rank) for rank in range(size)])


def room(size):
    return np.full(size * BLOCK, -1, np.int32), [BLOCK * number for number in range(size + 1)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "algorithm", [moving.ring_all_gather, moving.spreading_all_gather], **names
)
def test_all_gather(algorithm, size):
    memory = [{INPUT: (block_of(rank), [0, BLOCK]), WORK: room(size)} for rank in range(size)]
    run([algorithm(rank, size) for rank in range(size)], memory, seed=size)
    for each in memory:
        assert np.array_equal(each[WORK][0], joined(size))


@pytest.mark.parametrize("size", [2, 3, 8, 13, 64])
def test_spreading_takes_logarithmically_many_partners(size):
    for rank in range(size):
        schedule = moving.spreading_all_gather(rank, size)
        steps = math.ceil(math.log2(size))
        assert len({step.peer for step in schedule.steps if step.kind is Kind.SEND}) == steps
        sent = sum(s.extent.last - s.extent.first for s in schedule.steps if s.kind is Kind.SEND)
        assert sent == size - 1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("algorithm", [moving.tree_broadcast, moving.chain_broadcast], **names)
def test_broadcast(algorithm, size):
    for root in {0, size // 2, size - 1}:
        whole = np.arange(40, dtype=np.int32)
        memory = [
            {WORK: (whole.copy() if rank == root else np.zeros(40, np.int32), [0, 40])}
            for rank in range(size)
        ]
        run([algorithm(rank, size, root) for rank in range(size)], memory, seed=root)
        for each in memory:
            assert np.array_equal(each[WORK][0], whole)


@pytest.mark.parametrize("size", SIZES)
def test_gather_and_scatter(size):
    for root in {0, size - 1}:
        memory = [{INPUT: (block_of(rank), [0, BLOCK])} for rank in range(size)]
        memory[root][WORK] = room(size)
        run([moving.direct_gather(rank, size, root) for rank in range(size)], memory, seed=root)
        assert np.array_equal(memory[root][WORK][0], joined(size))

        outs = [np.zeros(BLOCK, np.int32) for _ in range(size)]
        memory = [{WORK: (outs[rank], [0, BLOCK])} for rank in range(size)]
        memory[root][INPUT] = (joined(size), room(size)[1])
        run([moving.direct_scatter(rank, size, root) for rank in range(size)], memory, seed=root)
        assert np.array_equal(np.concatenate(outs), joined(size))


@given(
    size=st.integers(1, 12),
    data=st.data(),
    seed=st.integers(0, 2**32),
    synchronous=st.booleans(),
)
@settings(max_examples=60)
def test_all_to_all_with_any_splits(size, data, seed, synchronous):
    rows = data.draw(
        st.lists(
            st.lists(st.integers(0, 20), min_size=size, max_size=size),
            min_size=size,
            max_size=size,
        )
    )
    sources, outs, memory = [], [], []
    for rank in range(size):
        sent, received = rows[rank], [rows[peer][rank] for peer in range(size)]
        sources.append(np.arange(sum(sent), dtype=np.int64) + 10_000 * rank)
        outs.append(np.full(sum(received), -1, np.int64))
        memory.append(
            {
                INPUT: (sources[rank], split_bounds(sent, 1)),
                WORK: (outs[rank], split_bounds(received, 1)),
            }
        )
    schedules = [moving.pairwise_all_to_all(rank, size) for rank in range(size)]
    run(schedules, memory, seed=seed, synchronous=synchronous)
    for rank in range(size):
        expected = [
            np.split(sources[peer], np.cumsum(rows[peer])[:-1])[rank] for peer in range(size)
        ]
        assert np.array_equal(outs[rank], np.concatenate(expected))


@pytest.mark.parametrize("size", SIZES)
def test_the_barrier_hears_from_everyone(size):
    """Whoever leaves depends on everybody: no rank gets through while one has not begun."""
    schedules = [moving.dissemination_barrier(rank, size) for rank in range(size)]
    run(schedules, [{} for _ in range(size)], seed=size)
    # Follow who knows of whom, round by round; a message carries what its sender knew.
    known = [{rank} for rank in range(size)]
    sends = [
        [step.peer for step in schedule.steps if step.kind is Kind.SEND] for schedule in schedules
    ]
    for number in range(len(sends[0])):
        before = [set(each) for each in known]
        for rank in range(size):
            known[sends[rank][number]] |= before[rank]
    assert all(each == set(range(size)) for each in known)
    for schedule in schedules:
        for index, step in enumerate(schedule.steps):
            if step.kind is Kind.SEND and index:
                assert any(after.step == index - 1 for after in schedule.after[index])
