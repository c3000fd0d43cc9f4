"""The command `bench tuning`: one threshold of the collectives at several values, in turn.

Each value has a group of its own, with processes of its own that stand idle meanwhile;
the groups take turns round by round, and a ratio compares times of the same round with
those of the value that is the default.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Final

from transport.collectives import Tuning

from .collectives import repetitions
from .errors import BenchError
from .machine import Machine, describe_machine
from .peers import OURS
from .quantities import format_size, parse_size
from .rank_worker import OPERATIONS
from .ranks import Ranks
from .report import aligned
from .timing import Run, Sample, Task, interleave

SCHEMA: Final = "sealfabric.bench.tuning/1"
_COUNTS: Final = ("ahead", "pair_ahead")  # the others are sizes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `bench tuning`."""
    names = ",".join(field.name for field in dataclasses.fields(Tuning))
    parser.add_argument("--vary", required=True, metavar="NAME=VALUES", help=f"one of {names}")
    parser.add_argument("--ranks", type=int, default=4, help="processes of a group (default 4)")
    parser.add_argument("--only", default="all_reduce", help=f"one of {','.join(OPERATIONS)}")
    parser.add_argument("--sizes", default="64KiB,1MiB,16MiB", help="default 64KiB,1MiB,16MiB")
    parser.add_argument("--peer", default=OURS[0], choices=OURS, help=f"default {OURS[0]}")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument("--deadline", type=float, default=60.0, help="seconds a measurement takes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Measure, print a table, and return 1 where an element was wrong or a group failed.

    Raises:
        BenchError: the arguments make no sense.
    """
    name, values = variation(args.vary)
    if args.only not in OPERATIONS or args.rounds < 1 or args.ranks < 2:
        raise BenchError(f"needs an operation of {','.join(OPERATIONS)}, 2 ranks and 1 round")
    tasks = tuple(
        Task(measurement=args.only, nbytes=parse_size(size), unit="s", better="lower")
        for size in args.sizes.split(",")
    )
    machine = describe_machine()
    print(machine.line())
    outcome, wrong = measure(args.peer, args.ranks, name, values, tasks, args.rounds, args.deadline)
    print(f"{args.only} of {args.ranks} ranks, {args.peer}, float32: medians over {args.rounds}")
    print("rounds, in brackets times as fast as the first, the default, in the same rounds\n")
    print(_table(outcome, name, values))
    for label, reason in outcome.failures.items():
        print(f"{name} = {label} failed: {reason}")
    if args.json is not None:
        _write_json(args.json, machine, args, name, outcome)
    return int(bool(wrong or outcome.failures))


def variation(text: str) -> tuple[str, tuple[int, ...]]:
    """Return which value of a `Tuning` varies, and through what, the default first.

    Raises:
        BenchError: there is no such value, or it cannot be that.
    """
    name, _, listed = text.partition("=")
    known = {field.name: field.default for field in dataclasses.fields(Tuning)}
    if name not in known or not listed:
        raise BenchError(f"{text!r} must be NAME=VALUES, NAME one of {','.join(known)}")
    values = [int(str(known[name]))]
    for part in listed.split(","):
        if name in _COUNTS:
            if not part.isdecimal():
                raise BenchError(f"{name} is a number, not {part!r}")
            values.append(int(part))
        else:
            values.append(0 if part == "0" else parse_size(part))
    return name, tuple(dict.fromkeys(values))


def measure(
    peer: str,
    size: int,
    name: str,
    values: tuple[int, ...],
    tasks: tuple[Task, ...],
    rounds: int,
    deadline: float,
) -> tuple[Run, int]:
    """Return the times of each task for each value, and how many elements were wrong.

    Raises:
        BenchError: a group did not come up.
    """
    wrong = 0
    with contextlib.ExitStack() as stack:
        groups: dict[str, Ranks] = {}
        for value in values:
            ranks = stack.enter_context(Ranks(peer, size, deadline=deadline, tuning={name: value}))
            ranks.start()
            groups[_label(name, value)] = ranks

        def once(label: str, task: Task) -> Sample:
            nonlocal wrong
            repeat, warm_up = repetitions(task.nbytes)
            done = groups[label].measure(task.measurement, task.nbytes, repeat, warm_up)
            wrong += done.wrong
            return Sample(value=done.seconds)

        return interleave(tuple(groups), tasks, rounds, once), wrong


def _label(name: str, value: int) -> str:
    return str(value) if name in _COUNTS else format_size(value)


def _table(outcome: Run, name: str, values: tuple[int, ...]) -> str:
    labels = [_label(name, value) for value in values]
    rows = [("size", *(f"{name} = {label}" for label in labels))]
    for result in outcome.results:
        cells = [format_size(result.task.nbytes)]
        for label in labels:
            if label not in result.values or labels[0] not in result.values:
                cells.append("")
                continue
            times = result.ratio(labels[0], label).median
            cells.append(f"{result.summary(label).median * 1e3:.3f} ms ({times:.2f})")
        rows.append(tuple(cells))
    return "\n".join(aligned(rows))


def _write_json(
    path: Path, machine: Machine, args: argparse.Namespace, name: str, outcome: Run
) -> None:
    document = {
        "schema": SCHEMA,
        "machine": dataclasses.asdict(machine),
        "peer": args.peer,
        "ranks": args.ranks,
        "rounds": args.rounds,
        "varied": name,
        "results": [
            {
                "operation": result.task.measurement,
                "nbytes": result.task.nbytes,
                "seconds": {label: list(values) for label, values in result.values.items()},
            }
            for result in outcome.results
        ],
        "failures": dict(outcome.failures),
    }
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
