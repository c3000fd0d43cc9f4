"""The command `bench collectives`: collective operations over loopback, beside Gloo.

One process a rank. Columns are those of nccl-tests: `algbw` is size by time, `busbw`
is algbw times what an operation must move over the busiest link for each byte, so that
it can be compared between operations and numbers of ranks. A time is the mean of back
to back operations on the slowest rank; peers take turns round by round, a table shows
medians, and the last column is theirs by ours in the same round.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import os
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from .errors import BenchError
from .machine import describe_machine
from .peers.control import Control
from .quantities import parse_size
from .rank_worker import OPERATIONS, PEERS
from .timing import rotated

SCHEMA: Final = "sealfabric.bench.collectives/1"
OURS: Final = "sealfabric"
SIZES: Final = "64,64KiB,1MiB,16MiB,256MiB"
_LOG_TAIL: Final = 800
_BUDGET: Final = 512 * 2**20  # bytes that one measurement may move, about
_MOST: Final = 300  # operations in one measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One line of the table."""

    ranks: int
    operation: str
    nbytes: int

    @property
    def count(self) -> int:
        """Elements of the larger buffer."""
        return self.nbytes // 4

    @property
    def repeat(self) -> int:
        """Operations in one measurement."""
        return max(2, min(_MOST, _BUDGET // max(1, self.nbytes) // 4))

    @property
    def bus_factor(self) -> float:
        """busbw by algbw, after nccl-tests' PERFORMANCE.md."""
        share = (self.ranks - 1) / self.ranks
        factors = {"all_reduce": 2 * share, "broadcast": 1.0, "reduce": 1.0}
        return factors.get(self.operation, share)

    @property
    def redop(self) -> str:
        """The reduction, as nccl-tests names it."""
        return "sum" if self.operation in ("all_reduce", "reduce_scatter", "reduce") else "none"

    @property
    def root(self) -> int:
        """The root; -1 where there is none."""
        return 0 if self.operation in ("broadcast", "reduce") else -1


@dataclass(slots=True, kw_only=True)
class Measured:
    """What one peer needed for one task, by round."""

    seconds: list[float] = field(default_factory=list)
    wrong: int = 0


Results = dict[Task, dict[str, Measured]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `bench collectives`."""
    parser.add_argument("--ranks", default="2,4", help="numbers of processes (default 2,4)")
    parser.add_argument("--only", default="all_reduce", help=f"some of {','.join(OPERATIONS)}")
    parser.add_argument("--sizes", default=SIZES, help=f"default {SIZES}")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default 3)")
    parser.add_argument("--peers", help=f"some of {','.join(PEERS)} (default: ours, gloo)")
    parser.add_argument("--deadline", type=float, default=60.0, help="seconds a measurement takes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Measure and print; 1 where an element was wrong.

    Raises:
        BenchError: the arguments make no sense, or a peer failed.
    """
    names = _chosen(args.peers or f"{OURS},gloo", tuple(PEERS))
    operations = _chosen(args.only, OPERATIONS)
    sizes = [parse_size(each) for each in args.sizes.split(",")]
    if args.rounds < 1 or not all(each.isdecimal() for each in args.ranks.split(",")):
        raise BenchError("--rounds and --ranks take whole numbers from 1 up")
    machine = describe_machine()
    print(machine.line())
    results: Results = {}
    versions: dict[str, str] = {}
    for ranks in map(int, args.ranks.split(",")):
        tasks = [
            Task(ranks=ranks, operation=operation, nbytes=nbytes)
            for operation in operations
            for nbytes in sizes
        ]
        measured, known = measure(names, ranks, tasks, args.rounds, args.deadline)
        results |= measured
        versions |= known
        print(table(measured, ranks))
    skipped = [name for name in names if name not in versions]
    print("\n".join(f"{name}: not installed, skipped" for name in skipped))
    if args.json is not None:
        args.json.write_text(_json(machine, versions, results), encoding="utf-8")
    return int(any(each.wrong for row in results.values() for each in row.values()))


def measure(
    names: Sequence[str], ranks: int, tasks: Sequence[Task], rounds: int, deadline: float
) -> tuple[Results, dict[str, str]]:
    """Run all tasks for all peers that are installed; return also their versions."""
    results: Results = {task: {} for task in tasks}
    with contextlib.ExitStack() as stack:
        running = {
            name: stack.enter_context(_started(name, ranks, deadline))
            for name in names
            if name != "gloo" or importlib.util.find_spec("torch") is not None
        }
        for number in range(rounds):
            for task in tasks:
                for name in rotated(tuple(running), number):
                    answers = running[name].ask(
                        "measure",
                        operation=task.operation,
                        nbytes=task.nbytes,
                        repeat=task.repeat,
                        warm_up=2 if task.nbytes > 2**20 else 10,
                    )
                    measured = results[task].setdefault(name, Measured())
                    measured.seconds.append(max(each["seconds"] for each in answers))
                    measured.wrong += sum(each["wrong"] for each in answers)
        return results, {name: each.version for name, each in running.items()}


class Ranks:
    """The processes of one peer."""

    def __init__(self, name: str, size: int, address: str, deadline: float) -> None:
        self._name = name
        self._deadline = deadline
        self._logs: list[IO[bytes]] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._controls: list[Control] = []
        for rank in range(size):
            self._start(rank, size, address)
        self.version = self._answers()[0]["version"]

    def _start(self, rank: int, size: int, address: str) -> None:
        log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        ours, theirs = socket.socketpair()
        module = f"{__package__}.rank_worker"
        search = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        with theirs:
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", module, self._name, str(rank), str(size), address],
                    stdin=theirs.fileno(),
                    stdout=log,
                    stderr=log,
                    env={**os.environ, "PYTHONPATH": search},
                )
            )
        self._logs.append(log)
        self._controls.append(Control(ours))

    def ask(self, what: str, **order: Any) -> list[dict[str, Any]]:
        """Give all ranks an order; return their answers."""
        for control in self._controls:
            control.send({"do": what, **order})
        return self._answers()

    def _answers(self) -> list[dict[str, Any]]:
        values = []
        for rank, control in enumerate(self._controls):
            try:
                answer = control.receive(self._deadline)
            except BenchError as error:
                self._logs[rank].seek(0)
                words = self._logs[rank].read().decode("utf-8", "replace")[-_LOG_TAIL:]
                raise BenchError(f"{self._name} rank {rank}: {error}\n{words}") from None
            if "error" in answer:
                raise BenchError(f"{self._name} rank {rank}: {answer['error']}")
            values.append(answer["value"])
        return values

    def close(self) -> None:
        """End every process."""
        with contextlib.suppress(BenchError):
            self.ask("close")
        for control in self._controls:
            control.close()
        for process in self._processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for log in self._logs:
            log.close()


@contextlib.contextmanager
def _started(name: str, size: int, deadline: float) -> Iterator[Ranks]:
    with tempfile.TemporaryDirectory(prefix="bench-ranks-") as folder:
        address = str(Path(folder) / "store")
        if name.startswith(OURS):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            address = f"{port},{secrets.token_hex(32)}"
        ranks = Ranks(name, size, address, deadline)
        try:
            yield ranks
        finally:
            ranks.close()


def table(results: Results, ranks: int) -> str:
    """The lines of nccl-tests, one for each task and peer."""
    lines = [
        "",
        f"{ranks} ranks",
        f"{'operation':<15}{'peer':<16}{'size':>11}{'count':>11}{'type':>7}{'redop':>6}"
        f"{'root':>5}{'time':>11}{'algbw':>8}{'busbw':>8}{'#wrong':>7}{'ratio':>7}",
        f"{'':<31}{'(B)':>11}{'(elements)':>11}{'':>18}{'(us)':>11}{'(GB/s)':>8}{'(GB/s)':>8}",
    ]
    for task, row in results.items():
        for name, measured in row.items():
            seconds = statistics.median(measured.seconds)
            speed = task.nbytes / seconds / 1e9
            lines.append(
                f"{task.operation:<15}{name:<16}{task.nbytes:>11}{task.count:>11}{'float':>7}"
                f"{task.redop:>6}{task.root:>5}{seconds * 1e6:>11.1f}{speed:>8.2f}"
                f"{speed * task.bus_factor:>8.2f}{measured.wrong:>7}{_ratio(row, name):>7}"
            )
    return "\n".join(lines)


def _ratio(row: dict[str, Measured], name: str) -> str:
    """How many times as fast ours is, in the same rounds."""
    if name == OURS or OURS not in row:
        return ""
    pairs = zip(row[name].seconds, row[OURS].seconds, strict=True)
    return f"{statistics.median(theirs / ours for theirs, ours in pairs):.2f}"


def _json(machine: Any, versions: dict[str, str], results: Results) -> str:
    return json.dumps(
        {
            "schema": SCHEMA,
            "machine": dataclasses.asdict(machine),
            "versions": versions,
            "results": [
                {
                    **dataclasses.asdict(task),
                    "type": "float",
                    "redop": task.redop,
                    "root": task.root,
                    "peer": name,
                    "seconds": measured.seconds,
                    "busbw_factor": task.bus_factor,
                    "wrong": measured.wrong,
                }
                for task, row in results.items()
                for name, measured in row.items()
            ],
        },
        indent=1,
    )


def _chosen(text: str, known: Sequence[str]) -> tuple[str, ...]:
    chosen = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        raise BenchError(f"{text!r} must be some of {','.join(known)}")
    return chosen
