"""Which peers a list of names means."""

from __future__ import annotations

import pytest

from bench.errors import BenchError
from bench.peers import CATALOGUE, OURS, chosen

KNOWN = tuple(CATALOGUE)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (None, KNOWN),
        ("gloo,mpi", (*OURS, "gloo", "mpi-tcp", "mpi-shm")),
        ("gloo , sealfabric-tcp,gloo", ("sealfabric-tcp", "gloo")),
        ("ours", OURS),
    ],
)
def test_ours_take_part_whether_named_or_not(text, names):
    assert chosen(text, KNOWN) == names


@pytest.mark.parametrize("text", ["", ",", "pigeon", "gloo,pigeon"])
def test_other_names_are_refused_with_those_that_are_known(text):
    with pytest.raises(BenchError, match=r"sealfabric.*mpi"):
        chosen(text, KNOWN)
