"""What a change costs a link: this source tree beside another one of the same project.

Both run the same transfers with the same workers, which come from here; only the
package `transport` that they import is the one tree's or the other's. Links cross
over loopback TCP, shared memory off, so that a tree that has none compares. Every
round starts new processes for each tree, one after the other, and the order alternates.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import transport

from .errors import BenchError
from .machine import Machine, describe_machine
from .peers.pair import Peer
from .quantities import display_unit, format_size
from .tasks import FULL, measure_pair
from .timing import Result, Sample, Summary, Task, rotated

SCHEMA: Final = "sealfabric.bench.against/1"
PEER: Final = "sealfabric-tcp"
HERE, THERE = "here", "there"
TASKS: Final = (
    Task(measurement="one-way", nbytes=256 * 2**20, unit="bytes/s", better="higher"),
    Task(measurement="one-way", nbytes=2**20, unit="bytes/s", better="higher"),
    Task(measurement="rate", nbytes=64, unit="messages/s", better="higher"),
    Task(measurement="round-trip", nbytes=64, unit="s", better="lower"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `bench against`."""
    parser.add_argument("--tree", type=Path, required=True, help="a checkout to compare with")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds (default 7)")
    parser.add_argument(
        "--deadline", type=float, default=60.0, help="seconds one measurement may take"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Measure, print a table, and return 0.

    Raises:
        BenchError: there is nothing to compare with, or a measurement failed.
    """
    if args.rounds < 1 or args.deadline <= 0:
        raise BenchError("rounds and deadline must be positive")
    machine = describe_machine()
    print(machine.line())
    results = measure(args.tree, args.rounds, TASKS, deadline=args.deadline)
    print(_table(results, args.tree, args.rounds))
    if args.json is not None:
        _write_json(args.json, machine, results, args.tree, args.rounds)
    return 0


def measure(
    tree: Path,
    rounds: int,
    tasks: tuple[Task, ...],
    *,
    deadline: float = 60.0,
    sample: Callable[[Peer, Task], Sample] = lambda peer, task: measure_pair(peer, task, FULL),
) -> tuple[Result, ...]:
    """Return for each task one value a round of either tree.

    Raises:
        BenchError: `tree` holds no package, or a measurement failed.
    """
    values: dict[Task, dict[str, list[float]]] = {task: {HERE: [], THERE: []} for task in tasks}
    with _beside_ours(tree) as folder:
        expected = {HERE: Path(transport.__file__).resolve().parent, THERE: _package(tree)}
        for number in range(rounds):
            for name in rotated((HERE, THERE), number):
                packages = folder if name == THERE else None
                with Peer(PEER, deadline=deadline, packages=packages) as peer:
                    peer.start()
                    _check(peer, expected[name])
                    peer.reserve(max(task.nbytes for task in tasks))
                    for task in tasks:
                        sample(peer, task)  # untimed: connections, memory and windows warm up
                        values[task][name].append(sample(peer, task).value)
    return tuple(
        Result(task=task, values={name: tuple(each) for name, each in found.items()})
        for task, found in values.items()
    )


def _package(tree: Path) -> Path:
    package = tree.resolve() / "transport"
    if not (package / "__init__.py").is_file():
        raise BenchError(f"{tree} holds no package 'transport'")
    return package


@contextmanager
def _beside_ours(tree: Path) -> Iterator[Path]:
    """A folder with that tree's package beside these benchmarks."""
    packages = {"transport": _package(tree), "bench": Path(__file__).resolve().parent}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for name, package in packages.items():
            (Path(folder) / name).symlink_to(package, target_is_directory=True)
        yield Path(folder)


def _check(peer: Peer, package: Path) -> None:
    if peer.library != package:
        raise BenchError(f"the workers must import {package}, and imported {peer.library}")


def ratio_of(result: Result) -> Summary:
    """Return how much better this tree is, round by round: above 1 is better."""
    if result.task.better == "higher":
        return result.ratio(HERE, THERE)
    return result.ratio(THERE, HERE)


# --- report ---------------------------------------------------------------------------------


def _title(task: Task) -> str:
    return f"{task.measurement}, {format_size(task.nbytes)}"


def _table(results: tuple[Result, ...], tree: Path, rounds: int) -> str:
    lines = [
        f"\nThis tree beside {tree}: two processes over loopback TCP, shared memory off, medians "
        f"over {rounds}\ninterleaved rounds of new processes. A ratio above 1 is better here; it "
        "is the median of the rounds'.\n",
        f"  {'':22}{'here':>10}{'there':>10}  {'':16}{'ratio':>8}{'least':>8}{'most':>8}",
    ]
    for result in results:
        here, there = result.summary(HERE).median, result.summary(THERE).median
        unit, divisor = display_unit(result.task.unit, here)
        ratio = ratio_of(result)
        lines.append(
            f"  {_title(result.task):22}{here / divisor:10.2f}{there / divisor:10.2f}  {unit:16}"
            f"{ratio.median:8.3f}{ratio.min:8.3f}{ratio.max:8.3f}"
        )
    return "\n".join(lines)


def _write_json(
    path: Path, machine: Machine, results: tuple[Result, ...], tree: Path, rounds: int
) -> None:
    document = {
        "schema": SCHEMA,
        "machine": dataclasses.asdict(machine),
        "settings": {"tree": str(tree), "rounds": rounds},
        "results": [
            {
                "task": dataclasses.asdict(result.task),
                "values": result.values,
                "ratio": dataclasses.asdict(ratio_of(result)),
            }
            for result in results
        ],
    }
    try:
        path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise BenchError(f"cannot write {path}: {error}") from None
