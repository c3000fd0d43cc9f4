"""`sealfabric bench …`: the benchmarks of bench/, as a command.

An installed distribution carries them as `transport.bench`; in a source tree
they lie beside the package. They are no part of the library.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

from ..errors import TransportError, UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of this command.

    Raises:
        UsageError: the benchmarks are not installed.
    """
    commands = parser.add_subparsers(dest="command", required=True)
    p2p = commands.add_parser("p2p", help="two processes of one host, round by round")
    benchmarks("p2p").add_arguments(p2p)
    collectives = commands.add_parser("collectives", help="operations among ranks, beside others")
    benchmarks("collectives").add_arguments(collectives)
    tuning = commands.add_parser("tuning", help="a threshold of the collectives at several values")
    benchmarks("tuning").add_arguments(tuning)
    ddp = commands.add_parser("ddp", help="a training step of PyTorch, beside Gloo")
    benchmarks("ddp").add_arguments(ddp)
    flood = commands.add_parser("flood", help="what a flood of packets leaves of a link")
    benchmarks("flood").add_arguments(flood)
    failover = commands.add_parser("failover", help="what one dead path costs a transfer")
    benchmarks("failover").add_arguments(failover)
    against = commands.add_parser("against", help="this source tree beside another one")
    benchmarks("against").add_arguments(against)
    handshake = commands.add_parser("handshake", help="what attestation costs a handshake")
    benchmarks("handshake").add_arguments(handshake)
    kms = commands.add_parser("kms", help="how many data keys a second a key service opens")
    benchmarks("kms").add_arguments(kms)


def run(arguments: argparse.Namespace) -> int:
    """Run the benchmark; return its exit status."""
    errors = benchmarks("errors")
    try:
        status: int = benchmarks(arguments.command).run(arguments)
    except errors.BenchError as error:
        raise TransportError(str(error)) from error
    return status


def benchmarks(module: str) -> ModuleType:
    """A module of bench/, by its name there.

    Raises:
        UsageError: the benchmarks are not installed.
    """
    root = __package__.partition(".")[0]
    if importlib.util.find_spec(f"{root}.bench") is not None:
        return importlib.import_module(f"{root}.bench.{module}")
    beside = Path(__file__).parents[2] / "bench"
    spec = importlib.util.find_spec("bench")
    if spec is None or spec.origin is None or Path(spec.origin).parent != beside:
        raise UsageError("the benchmarks are not installed with this package")
    return importlib.import_module(f"bench.{module}")
