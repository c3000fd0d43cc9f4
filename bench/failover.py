"""What one dead path among several costs a transfer: real sockets, real processes.

Each round transfers the same amount twice: undisturbed, and with one path turned
into a black hole once a third has arrived: nothing passes and nothing is closed,
so only silence tells of it. Which of the two comes first alternates, and every
round another path fails. A stall is the longest time between two messages that
the receiving program got.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from .errors import BenchError
from .machine import Machine, describe_machine
from .quantities import format_size, parse_size
from .transfers import Fate, LinkedPair, Plan, Transfer

SCHEMA: Final = "sealfabric.bench.failover/1"
_MOST_PATHS: Final = 250  # each listens on an address of its own, 127.0.0.1 and up


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """The same transfer twice, and what became of the path that failed in the second."""

    path: int
    undisturbed: Transfer
    disturbed: Transfer
    fate: Fate

    @property
    def ratio(self) -> float:
        """Throughput with a dead path, of that without."""
        return self.disturbed.throughput / self.undisturbed.throughput


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `bench failover`."""
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument("--size", default="2GiB", help="of one transfer (default 2GiB)")
    parser.add_argument("--message", default="8MiB", help="size of its messages (default 8MiB)")
    parser.add_argument("--paths", type=int, default=4, help="TCP connections (default 4)")
    parser.add_argument("--seed", type=int, default=1, help="of the content (default 1)")
    parser.add_argument(
        "--deadline", type=float, default=60.0, help="seconds one transfer may take (default 60)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Measure, print a table, and return 0.

    Raises:
        BenchError: the arguments make no sense, or a transfer was not complete and intact.
    """
    plan = _plan(args)
    machine = describe_machine()
    print(machine.line())
    print(
        f"\n{format_size(plan.messages * plan.size)} in messages of {format_size(plan.size)} over "
        f"{plan.paths} TCP paths, two processes. In the disturbed transfer one path turns\n"
        "into a black hole once a third has arrived. GB/s; a stall is the longest time between "
        "two messages.\n"
    )
    print(_HEAD)
    rounds = []
    for each in measure(plan, args.rounds):
        rounds.append(each)
        print(_line(len(rounds), each), flush=True)
    print(_summary(rounds))
    if args.json is not None:
        _write_json(args.json, machine, plan, rounds)
    return 0


def measure(plan: Plan, rounds: int) -> Iterator[Round]:
    """Yield each round's outcome.

    Raises:
        BenchError: a transfer was not complete and intact.
    """
    with LinkedPair(plan) as pair:
        pair.transfer()  # untimed: connections, memory and windows warm up
        for number in range(rounds):
            path = number % plan.paths
            undisturbed = pair.transfer() if number % 2 == 0 else None
            disturbed, fate = pair.transfer_with_a_dead_path(path)
            undisturbed = undisturbed or pair.transfer()
            yield Round(path=path, undisturbed=undisturbed, disturbed=disturbed, fate=fate)


def _plan(args: argparse.Namespace) -> Plan:
    size, message = parse_size(args.size), parse_size(args.message)
    if args.rounds < 1 or args.deadline <= 0:
        raise BenchError("rounds and deadline must be positive")
    if not 2 <= args.paths <= _MOST_PATHS:
        raise BenchError(f"paths must lie between 2 and {_MOST_PATHS}, not {args.paths}")
    if args.seed < 0:
        raise BenchError(f"the seed must not be negative, got {args.seed}")
    if size < 3 * message:
        raise BenchError(f"--size must be at least three messages of {format_size(message)}")
    return Plan(
        messages=size // message,
        size=message,
        paths=args.paths,
        deadline=args.deadline,
        seed=args.seed,
    )


# --- report ---------------------------------------------------------------------------------

_HEAD: Final = (
    "                throughput, GB/s              stall, ms"
    "              sent again       beyond  dead path's  used again\n"
    "  round  path  undisturbed  dead path  ratio  undisturbed  dead path"
    "  (needless)  payload, MB        share    after, s"
)


def _line(number: int, each: Round) -> str:
    calm, hit = each.undisturbed, each.disturbed
    return (
        f"  {number:5}  {each.path:4}  {calm.throughput / 1e9:11.2f}  {hit.throughput / 1e9:9.2f}"
        f"  {each.ratio:5.2f}  {calm.stall * 1e3:11.0f}  {hit.stall * 1e3:9.0f}"
        f"  {f'{hit.retransmissions} ({hit.spurious})':>10}  {hit.beyond_payload / 1e6:11.1f}"
        f"  {each.fate.share:11.1%}  {each.fate.used_again_after:10.2f}"
    )


def _summary(rounds: Sequence[Round]) -> str:
    return (
        f"\n  throughput with a dead path, of that without: median "
        f"{median(each.ratio for each in rounds):.2f}, "
        f"least {min(each.ratio for each in rounds):.2f}"
        f"\n  longest stall: {max(each.disturbed.stall for each in rounds) * 1e3:.0f} ms; "
        f"undisturbed {max(each.undisturbed.stall for each in rounds) * 1e3:.0f} ms"
        f"\n  every message arrived, with the bytes that were sent"
    )


def _write_json(path: Path, machine: Machine, plan: Plan, rounds: Sequence[Round]) -> None:
    document = {
        "schema": SCHEMA,
        "machine": dataclasses.asdict(machine),
        "settings": dataclasses.asdict(plan),
        "rounds": [{**dataclasses.asdict(each), "ratio": each.ratio} for each in rounds],
    }
    try:
        path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise BenchError(f"cannot write {path}: {error}") from None
