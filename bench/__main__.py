"""`python -m bench`: the benchmarks without an installed command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import against, collectives, ddp, failover, flood, handshake, kms, p2p, tuning
from .sim import command as sim


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one benchmark command and return its exit status."""
    parser = argparse.ArgumentParser(prog="bench", description="Sealfabric beside its peers")
    commands = parser.add_subparsers(dest="command", required=True)
    p2p.add_arguments(commands.add_parser("p2p", help="two processes of one host"))
    collectives.add_arguments(commands.add_parser("collectives", help="beside Gloo and OpenMPI"))
    tuning.add_arguments(commands.add_parser("tuning", help="a threshold of the collectives"))
    ddp.add_arguments(commands.add_parser("ddp", help="a training step beside Gloo"))
    flood.add_arguments(commands.add_parser("flood", help="a link under a flood"))
    failover.add_arguments(commands.add_parser("failover", help="a transfer that loses a path"))
    against.add_arguments(commands.add_parser("against", help="beside another source tree"))
    handshake.add_arguments(commands.add_parser("handshake", help="what attestation costs one"))
    kms.add_arguments(commands.add_parser("kms", help="data keys a second of a key service"))
    sim.add_arguments(commands.add_parser("sim", help="experiments on the simulated fabric"))
    parsed = parser.parse_args(arguments)
    chosen = {
        "p2p": p2p,
        "collectives": collectives,
        "tuning": tuning,
        "ddp": ddp,
        "flood": flood,
        "failover": failover,
        "against": against,
        "handshake": handshake,
        "kms": kms,
        "sim": sim,
    }
    status: int = chosen[parsed.command].run(parsed)
    return status


if __name__ == "__main__":
    sys.exit(main())
