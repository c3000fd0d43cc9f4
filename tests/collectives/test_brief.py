"""Small operations: step after step, whatever comes when, on the wire like any other."""

from __future__ import annotations

import numpy as np
import pytest

from support.groups import grouped, on_all
from support.nodes import until
from transport import Config
from transport.collectives import Tuning, moving, reducing
from transport.collectives.steps import Buffer, Kind

SIZES = (*range(1, 18), 32, 64)
SCHEDULES = [
    lambda rank, size: reducing.doubling_all_reduce(rank, size, Buffer.WORK),
    lambda rank, size: reducing.direct_reduce_scatter(rank, size),
    lambda rank, size: reducing.tree_reduce(rank, size, size // 2, Buffer.INPUT),
    lambda rank, size: moving.spreading_all_gather(rank, size),
    lambda rank, size: moving.tree_broadcast(rank, size, size // 2),
    lambda rank, size: moving.direct_gather(rank, size, size // 2),
    lambda rank, size: moving.direct_scatter(rank, size, size // 2),
    lambda rank, size: moving.pairwise_all_to_all(rank, size),
    lambda rank, size: moving.dissemination_barrier(rank, size),
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("make", SCHEDULES)
def test_in_the_order_of_the_schedule_no_rank_waits_for_ever(make, size):
    schedules = [make(rank, size) for rank in range(size)]
    at, sent = [0] * size, set()
    moved = True
    while moved:
        moved = False
        for rank, schedule in enumerate(schedules):
            while at[rank] < len(schedule.steps):
                step = schedule.steps[at[rank]]
                if step.kind is Kind.SEND:
                    sent.add((rank, step.peer, at[rank]))
                elif step.kind is not Kind.COPY:
                    waiting = sorted(each for each in sent if each[:2] == (step.peer, rank))
                    if not waiting:
                        break
                    sent.discard(waiting[0])
                at[rank] += 1
                moved = True
    assert at == [len(schedule.steps) for schedule in schedules]
    assert not sent


def test_which_schedules_are_brief():
    assert reducing.doubling_all_reduce(0, 2, Buffer.WORK).brief
    assert moving.dissemination_barrier(3, 8).brief
    assert not reducing.ring_all_reduce(0, 3, Buffer.WORK).brief


def test_ranks_need_not_agree_on_how_they_carry_it_out():
    """Both ways are the same on the wire: here rank 1 works in pieces, having a copy to make."""
    with grouped(2, tuning=Tuning(inline=64)) as groups:

        def call(group):
            array = np.arange(12, dtype=np.float32) + group.rank
            # In place 48 bytes are small; with an input beside the output it is 96 in all.
            out = None if group.rank == 0 else np.empty_like(array)
            return group.all_reduce(array, out=out).tolist()

        first, second = on_all(groups, call)
    assert first == second == [2.0 * each + 1 for each in range(12)]


def test_messages_that_come_before_their_turn_wait():
    with grouped(4) as groups:
        on_all(groups, lambda group: group.barrier())
        works = [
            [group.iall_reduce(np.full(3, group.rank + number)) for number in range(20)]
            for group in groups[1:]
        ]
        until(lambda: groups[0].node.stats().unclaimed_messages > 3)
        works.insert(0, [groups[0].iall_reduce(np.full(3, number)) for number in range(20)])
        for number in range(20):
            results = [each[number].wait(20).tolist() for each in works]
            assert results == [[4 * number + 6] * 3] * 4


def test_without_credit_an_operation_waits_for_it():
    """So many operations are under way that the peer's credit is spent, and given anew."""
    with grouped(2, config=Config(unexpected_bytes=262_144)) as groups:
        first, second = groups
        arrays = [np.full(15_000, number, np.float32) for number in range(12)]
        works = [first.iall_reduce(array) for array in arrays]
        until(lambda: second.node.stats().unclaimed_messages > 0)
        others = [second.iall_reduce(np.ones(15_000, np.float32)) for _ in arrays]
        for number, (work, other) in enumerate(zip(works, others, strict=True)):
            assert (work.wait(20) == number + 1).all()
            assert (other.wait(20) == number + 1).all()


def test_without_any_credit_what_comes_waits_until_its_turn():
    """The peer's message is seen while this side's own still lies in the tensor, unsent."""
    with grouped(2, config=Config(unexpected_bytes=262_144)) as groups:
        first, second = groups
        on_all(groups, lambda group: group.barrier())
        outbox = first.node._directory.link_to(second.node.name)._sender.outbox
        spent = []
        while not outbox._waiting:
            spent.append(first.isend(np.zeros(1), 1))
        with first.node._driver:  # nobody but the caller looks
            theirs = second.iall_reduce(np.full(4, 10.0))
            until(lambda: not second.node._directory.link_to(first.node.name).wants_service)
            first.node._engine._glance_at = 0.0
            ours = first.iall_reduce(np.full(4, 1.0))
        for _ in spent:
            second.recv(source=0, timeout=20.0)
        assert ours.wait(20).tolist() == theirs.wait(20).tolist() == [11.0] * 4
