"""Tensors as flat bytes, and their division among ranks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.collectives.operands import (
    checked_splits,
    even_bounds,
    even_rows,
    output,
    row_count,
    rows,
    stored,
    updatable,
)
from transport.errors import UsageError
from transport.tensor.spec import TensorSpec


@given(st.integers(0, 10_000), st.integers(1, 70), st.sampled_from([1, 4, 16]))
def test_blocks_are_as_equal_as_can_be(elements, blocks, itemsize):
    bounds = even_bounds(elements, blocks, itemsize)
    sizes = [b - a for a, b in pairwise(bounds)]
    assert (bounds[0], bounds[-1], len(sizes)) == (0, elements * itemsize, blocks)
    assert max(sizes) - min(sizes) <= itemsize
    assert all(size % itemsize == 0 for size in sizes)


def test_rows_of_a_tensor():
    spec = TensorSpec("int8", (6, 5))
    assert row_count(spec) == 6
    assert even_rows(spec, 3) == 2
    assert rows(spec, 2) == TensorSpec("int8", (2, 5))
    scalar = TensorSpec("int8", ())
    assert row_count(scalar) == 1
    assert rows(scalar, 4) == TensorSpec("int8", (4,))
    with pytest.raises(UsageError, match="cannot be divided evenly among 4 ranks"):
        even_rows(spec, 4)


def test_a_strided_tensor_is_worked_on_in_a_copy():
    whole = np.arange(8)
    part = whole[::2]
    view = updatable(part)
    assert bytes(view.data) == part.tobytes()
    view.data[:] = np.full(4, 9).tobytes()
    assert whole.tolist() == list(range(8))
    assert stored(view) is part
    assert whole.tolist() == [9, 1, 9, 3, 9, 5, 9, 7]


def test_output_is_new_or_what_was_given():
    spec = TensorSpec("float32", (2, 3))
    made = output(None, spec)
    assert made.owner.shape == (2, 3)
    given_array = np.zeros(6, np.float32)
    assert output(given_array, spec).owner is given_array
    for wrong in (np.zeros(5, np.float32), np.zeros(6, np.int32)):
        with pytest.raises(UsageError, match="out must hold float32"):
            output(wrong, spec)


def test_splits():
    assert checked_splits(None, 3, 6, "send_splits") == [2, 2, 2]
    assert checked_splits((0, 5, 1), 3, 6, "send_splits") == [0, 5, 1]
    for wrong in ([1, 2], [3, 4, -1], [1, 2, 4], [1.0, 2.0, 3.0]):
        with pytest.raises(UsageError, match="send_splits"):
            checked_splits(wrong, 3, 6, "send_splits")
