"""The command `bench p2p`: Sealfabric and its peers, two processes over loopback.

The commands `bench rss` and `bench import-time` are options of this one, so that all
figures share one report, one machine line and one JSON document.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import BenchError
from .footprint import measure_import_time, measure_rss
from .machine import describe_machine
from .peers import CATALOGUE, OURS, missing
from .peers.pair import Peer
from .plot import check_plot, write_plot
from .quantities import parse_size
from .report import PeerNote, Report, render, write_json
from .timing import Run, Task, interleave

MEASUREMENTS = ("one-way", "round-trip", "rate", "handshake")

_BATCH_BYTES = 32 * 2**20  # a one-way sample is a stream of about this much
_BATCH_LIMIT = 256  # messages


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is measured in one round; a round's value is the median of its samples."""

    rounds: int
    sizes: tuple[int, ...]  # bytes, one way
    one_way_samples: int
    round_trips: int
    rate_messages: int
    handshakes: int


FULL = Effort(
    rounds=7,
    sizes=(64 * 2**10, 2**20, 256 * 2**20),
    one_way_samples=3,
    round_trips=1000,
    rate_messages=5000,
    handshakes=3,
)
QUICK = Effort(
    rounds=3,
    sizes=(64 * 2**10, 2**20, 64 * 2**20),
    one_way_samples=2,
    round_trips=300,
    rate_messages=2000,
    handshakes=2,
)
ROUND_TRIP_SIZES = (64, 64 * 2**10)
RATE_SIZE = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bench p2p` to `parser`; `run` reads what they parse to."""
    parser.add_argument("--rounds", type=int, help="interleaved rounds (default 7; quick: 3)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and smaller messages")
    parser.add_argument("--sizes", help="one-way sizes (default 64KiB,1MiB,256MiB)")
    parser.add_argument("--only", help=f"some of {','.join(MEASUREMENTS)}")
    parser.add_argument("--peers", help=f"some of {','.join(CATALOGUE)}")
    parser.add_argument(
        "--deadline", type=float, default=60.0, help="seconds one measurement may take"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it, .png or .svg")
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
        names = _chosen(args.peers, tuple(CATALOGUE), _default_peers())
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
        if args.json is not None:
            write_json(report, args.json)
        if args.plot is not None:
            write_plot(report, args.plot)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return int(any(note.status == "failed" for note in report.peers))


def tasks_for(effort: Effort, measurements: Sequence[str]) -> tuple[Task, ...]:
    """Return what one round measures, in the order of `measurements`."""
    tasks: list[Task] = []
    for measurement in measurements:
        if measurement == "one-way":
            tasks += [_task(measurement, nbytes, "bytes/s") for nbytes in effort.sizes]
        elif measurement == "round-trip":
            tasks += [_task(measurement, nbytes, "s") for nbytes in ROUND_TRIP_SIZES]
        elif measurement == "rate":
            tasks.append(_task(measurement, RATE_SIZE, "messages/s"))
        else:
            tasks.append(_task(measurement, 0, "s"))
    return tuple(tasks)


def measure(peer: Peer, task: Task, effort: Effort) -> float:
    """Return one round's value of `task`: the median of its samples, in the task's unit.

    Raises:
        BenchError: the measurement failed.
    """
    if task.measurement == "one-way":
        batch = max(1, min(_BATCH_LIMIT, _BATCH_BYTES // task.nbytes))
        times = peer.one_way(task.nbytes, effort.one_way_samples, batch=batch)
        return task.nbytes / statistics.median(times)
    if task.measurement == "round-trip":
        return statistics.median(peer.round_trip(task.nbytes, effort.round_trips))
    if task.measurement == "rate":
        return peer.message_rate(task.nbytes, effort.rate_messages)
    return statistics.median(peer.handshake(effort.handshakes))


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
    running: dict[str, Peer] = {}
    with contextlib.ExitStack() as stack:
        for name in names:
            if (reason := missing(name)) is not None:
                notes[name] = PeerNote(name=name, status="skipped", reason=reason)
                continue
            peer = stack.enter_context(Peer(name, deadline=deadline, apart=apart))
            try:
                peer.start()
                # Untimed: memory faulted in, caches, code paths and windows warmed.
                for task in tasks:
                    if _takes_part(peer, task):
                        measure(peer, task, effort)
            except BenchError as error:
                notes[name] = PeerNote(name=name, status="failed", reason=str(error))
                peer.close()
                continue
            running[name] = peer
            notes[name] = PeerNote(
                name=name, status="measured", version=peer.version, about=peer.about
            )
        outcome = interleave(
            tuple(running),
            tasks,
            effort.rounds,
            lambda name, task: measure(running[name], task, effort),
            takes_part=lambda name, task: _takes_part(running[name], task),
            progress=lambda number: _progress(number, effort.rounds),
        )
    for name, reason in outcome.failures.items():
        notes[name] = PeerNote(name=name, status="failed", reason=reason)
    return outcome, tuple(notes[name] for name in names)


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
            "handshakes": effort.handshakes,
            "measurements": list(measurements),
        },
        peers=notes,
        run=outcome,
        ours=OURS,
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
    return Effort(
        rounds=rounds,
        sizes=sizes,
        one_way_samples=base.one_way_samples,
        round_trips=base.round_trips,
        rate_messages=base.rate_messages,
        handshakes=base.handshakes,
    )


def _measurements(args: argparse.Namespace) -> tuple[str, ...]:
    alone = (args.rss or args.import_time) and args.only is None
    return _chosen(args.only, MEASUREMENTS, () if alone else MEASUREMENTS)


def _chosen(text: str | None, known: Sequence[str], default: tuple[str, ...]) -> tuple[str, ...]:
    if text is None:
        return default
    chosen = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        raise BenchError(f"{text!r} must be some of {','.join(known)}")
    return chosen


def _default_peers() -> tuple[str, ...]:
    return tuple(name for name, entry in CATALOGUE.items() if entry.by_default)


def _takes_part(peer: Peer, task: Task) -> bool:
    return peer.secures or task.measurement != "handshake"


def _task(measurement: str, nbytes: int, unit: str) -> Task:
    return Task(
        measurement=measurement,
        nbytes=nbytes,
        unit=unit,
        better="lower" if unit == "s" else "higher",
    )


def _progress(number: int, rounds: int) -> None:
    if sys.stderr.isatty():
        print(f"round {number + 1} of {rounds}", end="\r", file=sys.stderr)
