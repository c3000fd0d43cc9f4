"""The command `sealfabric`: one module a command, listed in `COMMANDS`.

A command is a module with `add_arguments(parser)` and `run(arguments) -> int`,
imported only when it is called, so that help and version cost nothing. Errors
of this package end as one line on standard error and status 1; argparse ends
wrong usage with status 2.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

from .. import __version__
from ..errors import TransportError

COMMANDS: Final = {
    "demo": "two processes exchange tensors while a wiretap records, replays and forges",
    "bench": "measure Sealfabric beside what people use today (bench p2p)",
    "sim": "simulate links on a fabric beside a TCP-like control (sim incast)",
    "keygen": "make an identity file, or a cluster secret",
    "attest": "make an embedded attester, measure what runs, verify a document",
    "kms": "release keys to attested programs, or be AWS KMS's external key store",
    "doctor": "say what this machine offers, and what holds it back",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command with `argv`, by default the process's own; return its exit status.

    Raises:
        SystemExit: help or version was printed (0), or the usage was wrong (2).
    """
    given = list(sys.argv[1:] if argv is None else argv)
    command = given[0] if given else ""
    if command not in COMMANDS:
        _parser().parse_args(given)  # prints help, version or what was wrong
        _parser().print_help(sys.stderr)
        return 2
    try:
        status = _run(command, given[1:])
        sys.stdout.flush()
    except TransportError as error:
        print(f"sealfabric {command}: {_one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"sealfabric {command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output went away; what is still buffered must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _run(command: str, arguments: Sequence[str]) -> int:
    module = importlib.import_module(f".{command}", __name__)
    summary = COMMANDS[command]
    parser = argparse.ArgumentParser(
        prog=f"sealfabric {command}", description=f"{summary[0].upper()}{summary[1:]}."
    )
    module.add_arguments(parser)
    status: int = module.run(parser.parse_args(arguments))
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sealfabric", description="Always-encrypted tensor transport."
    )
    parser.add_argument("--version", action="version", version=f"sealfabric {__version__}")
    commands = parser.add_subparsers(metavar="command", title="commands")
    for name, summary in COMMANDS.items():
        commands.add_parser(name, help=summary, add_help=False)
    return parser


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
