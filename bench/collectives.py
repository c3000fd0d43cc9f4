"""The command `bench collectives`: collective operations, one process a rank, peers in turn.

A time is the mean of back to back operations on the slowest rank. Peers take turns
round by round, a table shows medians, and a ratio compares times of the same round.
"""

from __future__ import annotations

import argparse
import contextlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from .collectives_report import Line, Report, markdown, render, write_json
from .errors import BenchError
from .machine import describe_machine
from .peers import chosen, missing
from .plot import check_plot, write_collectives_plot
from .quantities import parse_size
from .rank_worker import OPERATIONS
from .ranks import PEERS, Ranks
from .report import PeerNote
from .targets import collectives_targets, render_targets, targets_markdown
from .timing import Sample, Task, interleave

SIZES: Final = "64,4KiB,64KiB,1MiB,16MiB,256MiB"
_BUDGET: Final = 128 * 2**20  # bytes of one measurement's operations, about
_MOST: Final = 300  # operations in one measurement
_LARGE: Final = 2 * 2**20  # bytes from which on one warm-up is enough


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `bench collectives`."""
    parser.add_argument("--ranks", default="2,4", help="numbers of processes (default 2,4)")
    parser.add_argument("--only", default="all_reduce", help=f"some of {','.join(OPERATIONS)}")
    parser.add_argument("--sizes", default=SIZES, help=f"default {SIZES}")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default 3)")
    parser.add_argument("--peers", help=f"some of {','.join(PEERS)}, or mpi; beside ours")
    parser.add_argument("--deadline", type=float, default=60.0, help="seconds a measurement takes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it, .png or .svg")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write it as Markdown")
    parser.add_argument("--targets", action="store_true", help="say which targets are met")


def run(args: argparse.Namespace) -> int:
    """Measure and print; 1 where an element was wrong or a peer failed.

    Raises:
        BenchError: the arguments make no sense, or nothing can be drawn.
    """
    names = chosen(args.peers, PEERS)
    operations = args.only.split(",")
    if unknown := [name for name in operations if name not in OPERATIONS]:
        raise BenchError(f"{unknown[0]!r} is none of {','.join(OPERATIONS)}")
    if args.rounds < 1 or not all(each.isdecimal() for each in args.ranks.split(",")):
        raise BenchError("--rounds and --ranks take whole numbers from 1 up")
    if args.plot is not None:
        check_plot(args.plot)
    tasks = tuple(
        Task(measurement=operation, nbytes=parse_size(size), unit="s", better="lower")
        for operation in operations
        for size in args.sizes.split(",")
    )
    report = Report(machine=describe_machine(), rounds=args.rounds)
    print(report.machine.line())
    for size in map(int, args.ranks.split(",")):
        report.add(size, *measure(names, size, tasks, args.rounds, args.deadline))
    print(render(report))
    if args.targets:
        print(render_targets(collectives_targets(report)))
    if args.markdown is not None:
        parts = [markdown(report)]
        if args.targets:
            parts.append(targets_markdown(collectives_targets(report)))
        args.markdown.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    if args.json is not None:
        write_json(report, args.json)
    if args.plot is not None:
        write_collectives_plot(report, args.plot)
    return int(report.is_flawed)


def repetitions(nbytes: int) -> tuple[int, int]:
    """How many operations of this size a measurement has, and how many before it."""
    return max(2, min(_MOST, _BUDGET // nbytes)), 1 if nbytes >= _LARGE else 10


def measure(
    names: Sequence[str], size: int, tasks: Sequence[Task], rounds: int, deadline: float
) -> tuple[tuple[Line, ...], tuple[PeerNote, ...]]:
    """Run all tasks with `size` ranks for all peers, one after the other in each round.

    A peer that is not installed is skipped and one that fails is left out; the notes
    say so for each.
    """
    notes: dict[str, PeerNote] = {}
    wrong: Counter[tuple[Task, str]] = Counter()
    with contextlib.ExitStack() as stack:
        running: dict[str, Ranks] = {}
        for name in names:
            if (reason := missing(name)) is not None:
                notes[name] = PeerNote(name=name, status="skipped", reason=reason)
                continue
            ranks = stack.enter_context(Ranks(name, size, deadline=deadline))
            try:
                ranks.start()
            except BenchError as error:
                notes[name] = PeerNote(name=name, status="failed", reason=str(error))
                continue
            running[name] = ranks
            notes[name] = PeerNote(name=name, status="measured", version=ranks.version)

        def once(name: str, task: Task) -> Sample:
            repeat, warm_up = repetitions(task.nbytes)
            done = running[name].measure(task.measurement, task.nbytes, repeat, warm_up)
            wrong[task, name] += done.wrong
            return Sample(value=done.seconds)

        outcome = interleave(tuple(running), tasks, rounds, once)
    for name, reason in outcome.failures.items():
        notes[name] = PeerNote(name=name, status="failed", reason=reason)
    lines = tuple(
        Line(
            ranks=size,
            result=result,
            wrong={name: wrong[result.task, name] for name in result.values},
        )
        for result in outcome.results
    )
    return lines, tuple(notes[name] for name in names)
