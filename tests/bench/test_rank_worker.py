"""The check of results finds what is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from bench.rank_worker import IN_PLACE, OPERATIONS, Bench, Rank, wrong_elements

COUNT = 4 * 9000  # longer than a period


class Alone(Rank):
    """A group of one, whose operations copy; `spoil` damages a result."""

    rank, size = 0, 1

    def __init__(self, spoil):
        self.spoil = spoil

    def version(self):
        return "alone 1"

    def prepare(self, operation, source, target):
        def run():
            target[:] = source
            self.spoil(target)

        return run

    def barrier(self):
        pass

    def close(self):
        pass


def measured(operation, spoil):
    bench = Bench(lambda _place: Alone(spoil))
    assert bench.join("nowhere") == "alone 1"
    return bench.measure(operation, 4 * COUNT, 2, 1)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_right_result_has_nothing_wrong(operation):
    done = measured(operation, lambda target: None)
    assert done["wrong"] == 0
    assert done["seconds"] > 0


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_wrong_element_is_counted_before_and_after(operation):
    def spoil(target):
        target[[0, 5000, -1]] += 0.5

    assert measured(operation, spoil)["wrong"] == 2 * 3


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_result_that_was_not_written_is_wrong(operation):
    target = np.full(COUNT, -1, np.float32)
    assert wrong_elements(operation, target, 0, 2) == COUNT


@pytest.mark.parametrize("step", [1, 512, 1024, 4096])
def test_a_displaced_piece_is_noticed(step):
    spoiled = measured("all_gather", lambda target: target.__setitem__(..., np.roll(target, step)))
    assert spoiled["wrong"] > COUNT


def test_a_root_alone_has_the_result_of_a_reduce():
    assert "reduce" in IN_PLACE
    assert wrong_elements("reduce", np.zeros(COUNT, np.float32), 1, 2) == 0
