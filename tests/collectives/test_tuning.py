"""The choice of algorithms: by size and ranks, the same on every rank."""

from __future__ import annotations

import pytest

from transport.collectives import Tuning, moving, reducing
from transport.collectives.reduction import reduction
from transport.collectives.steps import Buffer
from transport.collectives.tuning import reduced_alike
from transport.errors import UsageError

WORK = Buffer.WORK
KIB, MIB = 1024, 1024 * 1024


@pytest.mark.parametrize(
    ("nbytes", "size", "algorithm"),
    [
        (64, 2, reducing.doubling_all_reduce),
        (MIB, 2, reducing.doubling_all_reduce),
        (16 * MIB, 2, reducing.ring_all_reduce),
        (64, 8, reducing.doubling_all_reduce),
        (256 * KIB, 8, reducing.doubling_all_reduce),
        (MIB, 8, reducing.halving_all_reduce),
        (16 * MIB, 8, reducing.ring_all_reduce),
    ],
)
def test_all_reduce_by_size_and_ranks(nbytes, size, algorithm):
    for rank in range(size):
        chosen = Tuning().all_reduce(nbytes, rank, size, WORK, reduction("sum"), "float32")
        assert chosen is algorithm(rank, size, WORK)


def test_what_processors_may_reduce_differently_is_reduced_once():
    assert reduced_alike(reduction("product"), "float32")
    assert reduced_alike(reduction("sum"), "complex64")
    assert not reduced_alike(reduction("product"), "complex64")
    chosen = Tuning().all_reduce(64, 0, 4, WORK, reduction("product"), "complex64")
    assert chosen is reducing.halving_all_reduce(0, 4, WORK)


def test_the_others_by_size():
    tuning = Tuning()
    assert tuning.reduce_scatter(KIB, 1, 4) is reducing.direct_reduce_scatter(1, 4)
    assert tuning.reduce_scatter(2 * MIB, 1, 4) is reducing.ring_reduce_scatter(1, 4)
    assert tuning.reduce(KIB, 1, 4, 0, WORK) is reducing.tree_reduce(1, 4, 0, WORK)
    assert tuning.reduce(MIB, 1, 4, 0, WORK) is reducing.chain_reduce(1, 4, 0, WORK)
    assert tuning.all_gather(KIB, 1, 4) is moving.spreading_all_gather(1, 4)
    assert tuning.all_gather(MIB, 1, 4) is moving.ring_all_gather(1, 4)
    assert tuning.broadcast(KIB, 1, 4, 0) is moving.tree_broadcast(1, 4, 0)
    assert tuning.broadcast(MIB, 1, 4, 0) is moving.chain_broadcast(1, 4, 0)


def test_ranks_that_are_tuned_differently_can_tell():
    assert Tuning().fingerprint == Tuning().fingerprint
    assert Tuning().fingerprint != Tuning(piece=512 * KIB).fingerprint


def test_two_ranks_have_pieces_of_their_own():
    tuning = Tuning(piece=KIB, ahead=5, pair_piece=MIB, pair_ahead=3)
    assert (tuning.among(2).piece, tuning.among(2).ahead) == (MIB, 3)
    assert all(tuning.among(size) == tuning for size in (1, 3, 4))


@pytest.mark.parametrize(
    "wrong",
    [{"piece": 0}, {"pair_piece": 0}, {"ahead": 0}, {"pair_ahead": 65}, {"inline": -1}],
)
def test_impossible_values_are_refused(wrong):
    with pytest.raises(UsageError):
        Tuning(**wrong)
