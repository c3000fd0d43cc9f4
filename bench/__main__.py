"""`python -m bench`: the benchmarks without an installed command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import flood, p2p


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one benchmark command and return its exit status."""
    parser = argparse.ArgumentParser(prog="bench", description="Sealfabric beside its peers")
    commands = parser.add_subparsers(dest="command", required=True)
    p2p.add_arguments(commands.add_parser("p2p", help="two processes over loopback"))
    flood.add_arguments(commands.add_parser("flood", help="a link under a flood"))
    parsed = parser.parse_args(arguments)
    status: int = (flood.run if parsed.command == "flood" else p2p.run)(parsed)
    return status


if __name__ == "__main__":
    sys.exit(main())
