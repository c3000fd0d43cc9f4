"""The command `bench ddp`: a training step with DistributedDataParallel, ours beside Gloo.

Each peer is a pair of processes that train the same network on the same data, a few steps
in turn, round by round. A time is the mean of a turn's steps on the slower rank; a table
shows medians, and a ratio compares times of the same round. In the end all peers must have
the same weights, to the last bit.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .errors import BenchError
from .machine import Machine, describe_machine
from .peers import TORCH_SEALED, missing
from .peers.crew import Crew
from .ranks import meeting_place
from .timing import Summary, ratios, summarise

PEERS: Final = (*TORCH_SEALED, "gloo")
RANKS: Final = 2
SCHEMA: Final = "sealfabric-bench-ddp/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a run brought: seconds of a step, by peer and round."""

    machine: Machine
    parameters: int
    batch: int
    steps: int  # of one turn
    seconds: Mapping[str, tuple[float, ...]]
    weights: Mapping[str, str]  # a digest of them in the end

    def speedup(self, ours: str, theirs: str) -> Summary:
        """How many times as fast ours is, round by round."""
        return summarise(ratios(self.seconds[theirs], self.seconds[ours]))

    @property
    def agrees(self) -> bool:
        """Whether all peers came to the same weights."""
        return len(set(self.weights.values())) == 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `bench ddp`."""
    parser.add_argument("--parameters", type=float, default=25.0, help="millions (default 25)")
    parser.add_argument("--batch", type=int, default=32, help="rows a rank and step (default 32)")
    parser.add_argument("--steps", type=int, default=3, help="steps of one turn (default 3)")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument("--peers", help=f"some of {','.join(PEERS)} (default all)")
    parser.add_argument("--deadline", type=float, default=120.0, help="seconds a turn may take")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Measure and print; 1 where peers came to different weights.

    Raises:
        BenchError: the arguments make no sense, a library is absent, or a peer failed.
    """
    if min(args.parameters, args.batch, args.steps, args.rounds) <= 0:
        raise BenchError("--parameters, --batch, --steps and --rounds take positive numbers")
    names = _chosen(args.peers)
    for name in names:
        if (reason := missing(name)) is not None:
            raise BenchError(reason)
    report = measure(names, args)
    print(report.machine.line())
    print(render(report))
    if args.json is not None:
        text = json.dumps(to_json(report), indent=1, ensure_ascii=False)
        args.json.write_text(text + "\n", encoding="utf-8")
    return int(not report.agrees)


def _chosen(text: str | None) -> tuple[str, ...]:
    names = PEERS if text is None else tuple(dict.fromkeys(text.split(",")))
    if unknown := [name for name in names if name not in PEERS]:
        raise BenchError(f"{unknown[0]!r} is none of {','.join(PEERS)}")
    return names


def measure(names: tuple[str, ...], args: argparse.Namespace) -> Report:
    """Start every peer, and let them take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with contextlib.ExitStack() as stack:
        crews = {name: stack.enter_context(_crew(name, args.deadline)) for name in names}
        for name, crew in crews.items():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-ddp-")))
            sizes = crew.ask(
                "join",
                place=meeting_place(name, folder),
                parameters=int(args.parameters * 1e6),
                batch=args.batch,
            )
            crew.ask("train", steps=2)  # buckets are rebuilt, memory is touched
        for number in range(args.rounds):
            turn = number % len(names)
            for name in (*names[turn:], *names[:turn]):
                answers = crews[name].ask("train", steps=args.steps)
                seconds[name].append(max(answers))
        weights = {name: _agreed(name, crew.ask("digest")) for name, crew in crews.items()}
    return Report(
        machine=describe_machine(),
        parameters=sizes[0],
        batch=args.batch,
        steps=args.steps,
        seconds={name: tuple(each) for name, each in seconds.items()},
        weights=weights,
    )


@contextlib.contextmanager
def _crew(name: str, deadline: float) -> Any:
    words = {
        f"{name} rank {rank}": (name, str(rank), str(RANKS), str(deadline)) for rank in range(RANKS)
    }
    crew = Crew(f"{__package__}.ddp_worker", words, deadline=deadline)
    try:
        yield crew
    finally:
        crew.close()


def _agreed(name: str, digests: list[str]) -> str:
    if len(set(digests)) > 1:
        raise BenchError(f"the ranks of {name} came to different weights")
    return digests[0]


def render(report: Report) -> str:
    """Return the table as text."""
    ours = [name for name in report.seconds if name in TORCH_SEALED]
    lines = [
        f"DDP step: {report.parameters / 1e6:.1f} M parameters in float32, {RANKS} ranks, batch "
        f"{report.batch}; medians of rounds of {report.steps} steps, the peers interleaved.",
        "",
        f"{'peer':<20}{'step (ms)':>12}{'min':>10}{'max':>10}"
        + "".join(f"{f'x {name}':>24}" for name in ours),
    ]
    for name, values in report.seconds.items():
        summary = summarise(values)
        line = f"{name:<20}{summary.median * 1e3:>12.1f}{summary.min * 1e3:>10.1f}"
        line += f"{summary.max * 1e3:>10.1f}"
        for each in ours:
            shown = "" if each == name else f"{report.speedup(each, name).median:.2f}"
            line += f"{shown:>24}"
        lines.append(line)
    same = "the same" if report.agrees else "DIFFERENT"
    lines += ["", f"All peers came to {same} weights. x says how many times as fast ours is."]
    return "\n".join(lines)


def to_json(report: Report) -> dict[str, Any]:
    """Return the report as values that `json` can write: seconds of a step, every round."""
    return {"schema": SCHEMA, **dataclasses.asdict(report)}
