"""The demonstration's tensors are the same everywhere, and their bytes mean something."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from transport.cli.demo_tensors import (
    PREFIX,
    attacked_tensors,
    digest,
    large_tensor,
    raw_bytes,
    small_tensors,
)
from transport.cli.scanner import SHORTEST_INDEXED, WireIndex, entropy_bits

MIB = 1024 * 1024
LARGE = large_tensor(4 * MIB)
EVERYTHING = [*small_tensors(7), LARGE, *attacked_tensors(LARGE, 7)]


def test_one_seed_gives_the_same_tensors_and_another_gives_others():
    def digests(seed):
        return [digest(tensor.array) for tensor in small_tensors(seed) if tensor.array.size]

    assert digests(7) == digests(7)
    differing = [a != b for a, b in zip(digests(7), digests(8), strict=True)]
    assert sum(differing) == len(differing) - 1  # the pattern of truth values is fixed


def test_the_kinds_worth_showing_are_there():
    arrays = [tensor.array for tensor in small_tensors(7)]
    names = {array.dtype.name for array in arrays}
    assert {"bool", "int8", "float16", "float32", "float64", "complex64"} <= names
    assert any(array.ndim == 0 for array in arrays)
    assert any(array.size == 0 for array in arrays)
    assert any(not array.flags.c_contiguous for array in arrays)


def test_the_large_tensor_has_its_size_and_a_low_entropy():
    assert LARGE.array.nbytes == 4 * MIB
    assert LARGE.array.dtype == np.float32
    assert entropy_bits([raw_bytes(LARGE.array)]) < 6.0


@pytest.mark.parametrize("tensor", EVERYTHING, ids=lambda tensor: tensor.name)
def test_no_run_could_be_mistaken_for_framing(tensor):
    zeros = np.zeros(64, np.uint8)
    counters = np.arange(0, 4096, dtype=np.uint64).view(np.uint8)
    assert WireIndex([zeros, counters]).find_tensor(raw_bytes(tensor.array)) is None


@pytest.mark.parametrize("tensor", EVERYTHING, ids=lambda tensor: tensor.name)
def test_names_are_long_enough_to_be_searched_for(tensor):
    assert tensor.name.startswith(PREFIX)
    assert len(tensor.name) >= SHORTEST_INDEXED


def test_the_digest_covers_type_shape_and_layout():
    array = np.arange(12, dtype=np.int32).reshape(3, 4)
    assert digest(array) == digest(np.asfortranarray(array))
    assert digest(array) != digest(array.T)
    assert digest(array) != digest(array.reshape(4, 3))
    assert digest(array) != digest(array.view(np.uint32))


def test_a_named_tensor_is_a_value():
    with pytest.raises(dataclasses.FrozenInstanceError):
        LARGE.name = "another"
