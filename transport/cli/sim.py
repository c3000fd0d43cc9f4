"""`sealfabric sim incast | permutation | ...`: experiments on the simulated fabric.

The experiments lie with the benchmarks, in bench/sim, because they compare; the
simulator that they run is a part of the library, `transport.sim`.
"""

from __future__ import annotations

import argparse

from .bench import benchmarks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of this command.

    Raises:
        UsageError: the benchmarks are not installed.
    """
    benchmarks("sim.command").add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Simulate what was asked for; return the exit status."""
    status: int = benchmarks("sim.command").run(arguments)
    return status
