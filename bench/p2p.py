"""The command `bench p2p`: Sealfabric and its peers, two processes of one host.

The commands `bench rss` and `bench import-time` are options of this one, so that all
figures share one report, one machine line and one JSON document.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from .errors import BenchError
from .footprint import measure_import_time, measure_rss
from .machine import describe_machine
from .peers import CATALOGUE, chosen, missing
from .peers.pair import Peer
from .plot import check_plot, write_plot
from .quantities import parse_size
from .ranks import PEERS as RANKED
from .ranks import Ranks
from .report import PeerNote, Report, render, write_json
from .summary import write_markdown
from .targets import p2p_targets, render_targets, targets_markdown
from .tasks import (
    CIPHER,
    EXCHANGE_RANKS,
    FULL,
    MEASUREMENTS,
    QUICK,
    Effort,
    measure_cipher,
    measure_exchange,
    measure_pair,
    tasks_for,
)
from .timing import Run, Sample, Task, interleave


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bench p2p` to `parser`; `run` reads what they parse to."""
    parser.add_argument("--rounds", type=int, help="interleaved rounds (default 7; quick: 3)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and smaller messages")
    parser.add_argument("--sizes", help="one-way sizes (default 64 to 256MiB, six)")
    parser.add_argument("--only", help=f"some of {','.join(MEASUREMENTS)}")
    parser.add_argument("--peers", help=f"some of {','.join(CATALOGUE)}, or mpi; beside ours")
    parser.add_argument(
        "--deadline", type=float, default=60.0, help="seconds one measurement may take"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it, .png or .svg")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the ratios as a table")
    parser.add_argument("--targets", action="store_true", help="say which targets are met")
    parser.add_argument(
        "--rss",
        action="store_true",
        help="resident memory for one large message; alone, unless --only is given",
    )
    parser.add_argument("--rss-size", default="4GiB", help="size of that message (default 4GiB)")
    parser.add_argument(
        "--apart",
        action="store_true",
        help="take latencies with each process on its own half of the cores",
    )
    parser.add_argument(
        "--import-time",
        action="store_true",
        help="import time beside our dependencies'; alone, unless --only is given",
    )


def run(args: argparse.Namespace) -> int:
    """Measure what `args` ask for and print it; return the process's exit status.

    0: everything asked for was measured or visibly skipped; 1: a peer failed; 2: the
    arguments make no sense.
    """
    try:
        effort = _effort(args)
        names = chosen(args.peers, tuple(CATALOGUE))
        measurements = _measurements(args)
        rss_size = parse_size(args.rss_size)
        if args.plot is not None:
            check_plot(args.plot)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    try:
        report = _measure(args, effort, names, measurements, rss_size)
        print(render(report))
        if args.targets:
            print(render_targets(p2p_targets(report.run)))
        if args.json is not None:
            write_json(report, args.json)
        if args.markdown is not None:
            write_markdown(report, args.markdown)
            if args.targets:
                with args.markdown.open("a", encoding="utf-8") as file:
                    file.write(f"\n{targets_markdown(p2p_targets(report.run))}\n")
        if args.plot is not None:
            write_plot(report, args.plot)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return int(any(note.status == "failed" for note in report.peers))


def measure_peers(
    names: Sequence[str],
    tasks: Sequence[Task],
    effort: Effort,
    *,
    deadline: float,
    apart: bool = False,
) -> tuple[Run, tuple[PeerNote, ...]]:
    """Start the peers, run the interleaved rounds, end the peers.

    A peer that is not installed is skipped and one that fails is left out; the notes
    say so for each.
    """
    notes: dict[str, PeerNote] = {}
    with contextlib.ExitStack() as stack:
        crews: dict[str, _Crews] = {}
        for name in names:
            if (reason := missing(name)) is not None:
                notes[name] = PeerNote(name=name, status="skipped", reason=reason)
                continue
            crew = _Crews(name, tasks, effort, deadline=deadline, apart=apart)
            stack.callback(crew.close)
            try:
                crew.start()
            except BenchError as error:
                notes[name] = PeerNote(name=name, status="failed", reason=str(error))
                crew.close()
                continue
            crews[name] = crew
            notes[name] = PeerNote(
                name=name, status="measured", version=crew.pair.version, about=crew.pair.about
            )
        outcome = interleave(
            (*crews, CIPHER),
            tasks,
            effort.rounds,
            lambda name, task: (
                measure_cipher(task) if name == CIPHER else crews[name].measure(task)
            ),
            takes_part=lambda name, task: (
                task.measurement == "cipher" if name == CIPHER else crews[name].takes_part(task)
            ),
            progress=lambda number: _progress(number, effort.rounds),
        )
    for name, reason in outcome.failures.items():
        notes[name] = PeerNote(name=name, status="failed", reason=reason)
    return outcome, tuple(notes[name] for name in names)


class _Crews:
    """The processes of one peer: two for most measurements, more for an exchange."""

    def __init__(
        self, name: str, tasks: Sequence[Task], effort: Effort, *, deadline: float, apart: bool
    ) -> None:
        self._effort = effort
        self.pair = Peer(name, deadline=deadline, apart=apart)
        self._ranks = Ranks(name, EXCHANGE_RANKS, deadline=deadline) if name in RANKED else None
        self._tasks = [task for task in tasks if self.takes_part(task)]

    def start(self) -> None:
        """Start the processes and warm them up: memory, caches, code paths and windows."""
        self.pair.start()
        if self._ranks is not None and any(each.measurement == "exchange" for each in self._tasks):
            self._ranks.start()
        for task in self._tasks:
            self.measure(task)

    def takes_part(self, task: Task) -> bool:
        """Whether this peer has that measurement."""
        if task.measurement == "exchange":
            return self._ranks is not None
        if task.measurement == "handshake":
            return self.pair.secures
        return task.measurement != "cipher"

    def measure(self, task: Task) -> Sample:
        """One round's sample."""
        if task.measurement == "exchange" and self._ranks is not None:
            return measure_exchange(self._ranks, task)
        return measure_pair(self.pair, task, self._effort)

    def close(self) -> None:
        """End the processes."""
        self.pair.close()
        if self._ranks is not None:
            self._ranks.close()


def _measure(
    args: argparse.Namespace,
    effort: Effort,
    names: tuple[str, ...],
    measurements: tuple[str, ...],
    rss_size: int,
) -> Report:
    machine = describe_machine()
    tasks = tasks_for(effort, measurements)
    outcome, notes = Run(), tuple[PeerNote, ...]()
    if tasks:
        outcome, notes = measure_peers(
            names, tasks, effort, deadline=args.deadline, apart=args.apart
        )
    return Report(
        machine=machine,
        settings={
            "rounds": effort.rounds,
            "apart": args.apart,
            "one_way_samples": effort.one_way_samples,
            "round_trips": effort.round_trips,
            "rate_messages": effort.rate_messages,
            "wait": effort.wait,
            "handshakes": effort.handshakes,
            "measurements": list(measurements),
        },
        peers=notes,
        run=outcome,
        rss=measure_rss(rss_size, deadline=args.deadline) if args.rss else None,
        import_time=measure_import_time(effort.rounds) if args.import_time else None,
    )


def _effort(args: argparse.Namespace) -> Effort:
    base = QUICK if args.quick else FULL
    rounds = base.rounds if args.rounds is None else args.rounds
    if rounds < 1:
        raise BenchError(f"--rounds must be at least 1, not {rounds}")
    sizes = base.sizes
    if args.sizes is not None:
        sizes = tuple(parse_size(size) for size in args.sizes.split(","))
    return dataclasses.replace(base, rounds=rounds, sizes=sizes)


def _measurements(args: argparse.Namespace) -> tuple[str, ...]:
    if args.only is None:
        return () if args.rss or args.import_time else MEASUREMENTS
    named = tuple(dict.fromkeys(filter(None, map(str.strip, args.only.split(",")))))
    if not named or not set(named) <= set(MEASUREMENTS):
        raise BenchError(f"{args.only!r} must be some of {','.join(MEASUREMENTS)}")
    return named


def _progress(number: int, rounds: int) -> None:
    if sys.stderr.isatty():
        print(f"round {number + 1} of {rounds}", end="\r", file=sys.stderr)
