"""Two processes and what they measure of each other; content that cannot be mistaken."""

from __future__ import annotations

import numpy as np
import pytest

from bench.errors import BenchError
from bench.transfers import LinkedPair, Plan

MIB = 1024 * 1024
PLAN = Plan(messages=12, size=MIB, paths=2, deadline=60.0, seed=1)


def test_no_two_messages_have_the_same_content():
    pattern = PLAN.make_pattern()
    contents = [PLAN.content(number, pattern) for number in (0, 1, 2, 4095)]
    assert {len(content) for content in contents} == {MIB}
    for at, one in enumerate(contents):
        for other in contents[:at]:
            assert np.count_nonzero(one == other) < MIB / 100


def test_both_processes_make_the_same_content():
    assert np.array_equal(PLAN.make_pattern(), PLAN.make_pattern())


def test_transfers_follow_each_other_over_one_link():
    with LinkedPair(PLAN) as pair:
        thirds: list[bool] = []
        first = pair.transfer(lambda: thirds.append(True))
        second = pair.transfer()
    assert thirds == [True]
    for transfer in (first, second):
        assert 0 < transfer.stall <= transfer.seconds
        assert transfer.beyond_payload > 0


def test_a_transfer_that_takes_too_long_is_an_error():
    plan = Plan(messages=3, size=MIB, paths=2, deadline=0.001, seed=1)
    with pytest.raises(BenchError, match=r"took over 0\.001 s"), LinkedPair(plan):
        pass
