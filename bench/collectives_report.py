"""Collective operations as nccl-tests prints them, and as JSON.

`algbw` is size by time; `busbw` is algbw times what an operation must move over the
busiest link for each byte (nccl-tests' PERFORMANCE.md), so that it can be compared
between operations and numbers of ranks.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from .machine import Machine
from .peers import OURS
from .quantities import display_unit, format_size
from .report import PeerNote, peer_lines
from .summary import HEADINGS, WHERE, row
from .timing import Result

SCHEMA: Final = "sealfabric.bench.collectives/2"
_REDUCING: Final = ("all_reduce", "reduce_scatter", "reduce")
_ROOTED: Final = ("broadcast", "reduce")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One operation at one size on one number of ranks, for every peer."""

    ranks: int
    result: Result
    wrong: Mapping[str, int]  # elements, by peer, over all rounds

    @property
    def operation(self) -> str:
        """The operation's name."""
        return self.result.task.measurement

    @property
    def nbytes(self) -> int:
        """Bytes of a rank's larger buffer."""
        return self.result.task.nbytes

    @property
    def bus_factor(self) -> float:
        """busbw by algbw."""
        share = (self.ranks - 1) / self.ranks
        factors = {"all_reduce": 2 * share, "broadcast": 1.0, "reduce": 1.0}
        return factors.get(self.operation, share)

    def busbw(self, nbytes: int, seconds: float) -> float:
        """Gigabytes a second over the busiest link, for `nbytes` in that time."""
        return self.bus_factor * nbytes / seconds / 1e9

    @property
    def redop(self) -> str:
        """The reduction, as nccl-tests names it."""
        return "sum" if self.operation in _REDUCING else "none"

    @property
    def root(self) -> int:
        """The root; -1 where there is none."""
        return 0 if self.operation in _ROOTED else -1

    def speedup(self, ours: str, theirs: str) -> float | None:
        """How many times as fast ours is: the median over rounds, None if one is absent."""
        if ours == theirs or not {ours, theirs} <= set(self.result.values):
            return None
        return self.result.ratio(theirs, ours).median


@dataclass(slots=True, kw_only=True)
class Report:
    """Everything that one command measured."""

    machine: Machine
    rounds: int
    lines: list[Line] = field(default_factory=list)
    notes: dict[int, tuple[PeerNote, ...]] = field(default_factory=dict)  # by number of ranks

    def add(self, ranks: int, lines: tuple[Line, ...], notes: tuple[PeerNote, ...]) -> None:
        """Add what was measured with so many ranks."""
        self.lines += lines
        self.notes[ranks] = notes

    @property
    def is_flawed(self) -> bool:
        """Whether an element was wrong or a peer failed."""
        failed = any(note.status == "failed" for notes in self.notes.values() for note in notes)
        return failed or any(any(line.wrong.values()) for line in self.lines)


def render(report: Report) -> str:
    """Return the tables as text, one for each number of ranks."""
    parts = [
        f"Medians over {report.rounds} rounds, the peers interleaved; float32. x shm and x tcp "
        "say how many times as\nfast ours is, with shared memory allowed and over TCP alone, in "
        "the same rounds.",
    ]
    for ranks, notes in report.notes.items():
        parts += ["", f"{ranks} ranks", *peer_lines(notes)]
        parts += _table([line for line in report.lines if line.ranks == ranks])
    return "\n".join(parts)


def _table(lines: list[Line]) -> list[str]:
    text = [
        f"{'operation':<15}{'peer':<16}{'size':>11}{'count':>11}{'type':>7}{'redop':>6}"
        f"{'root':>5}{'time':>11}{'algbw':>8}{'busbw':>8}{'#wrong':>7}{'x shm':>8}{'x tcp':>8}",
        f"{'':<31}{'(B)':>11}{'(elements)':>11}{'':>18}{'(us)':>11}{'(GB/s)':>8}{'(GB/s)':>8}",
    ]
    for line in lines:
        for name in line.result.values:
            seconds = line.result.summary(name).median
            speedups = (line.speedup(ours, name) for ours in OURS)
            ratios = "".join(f"{'' if each is None else f'{each:.2f}':>8}" for each in speedups)
            text.append(
                f"{line.operation:<15}{name:<16}{line.nbytes:>11}{line.nbytes // 4:>11}"
                f"{'float':>7}{line.redop:>6}{line.root:>5}{seconds * 1e6:>11.1f}"
                f"{line.nbytes / seconds / 1e9:>8.2f}"
                f"{line.busbw(line.nbytes, seconds):>8.2f}{line.wrong[name]:>7}{ratios}"
            )
    return text


def markdown(report: Report) -> str:
    """Return a Markdown table: ours are times, the others how many times as fast ours is."""
    tables = []
    for ranks in report.notes:
        lines = [line for line in report.lines if line.ranks == ranks]
        names = dict.fromkeys(name for line in lines for name in line.result.values)
        others = [name for name in names if name not in WHERE]
        heading = [f"{ranks} ranks", "Sealfabric, sealed", *(HEADINGS[name] for name in others)]
        table = [row(heading), f"|{'---|' * len(heading)}"]
        for own in WHERE:
            for line in lines:
                if own in line.result.values:
                    table.append(row(_markdown_cells(line, own, others)))
        tables.append("\n".join(table))
    return "\n\n".join(tables)


def _markdown_cells(line: Line, own: str, others: list[str]) -> list[str]:
    median = line.result.summary(own).median
    unit, factor = display_unit("s", median)
    cells = [
        f"{line.operation} of {format_size(line.nbytes)}, {WHERE[own]}",
        f"{median / factor:.3g} {unit}",
    ]
    for name in others:
        speedup = line.speedup(own, name)
        times = "" if speedup is None else f"{speedup:.2f} ×"  # noqa: RUF001
        cells.append(f"**{times}**" if speedup is not None and speedup > 1 else times)
    return cells


def write_json(report: Report, path: Path) -> None:
    """Write the report to `path`, replacing what is there."""
    text = json.dumps(to_json(report), indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def to_json(report: Report) -> dict[str, Any]:
    """Return the report as values that `json` can write: bytes and seconds, every round."""
    return {
        "schema": SCHEMA,
        "machine": dataclasses.asdict(report.machine),
        "rounds": report.rounds,
        "peers": {
            str(ranks): [dataclasses.asdict(note) for note in notes]
            for ranks, notes in report.notes.items()
        },
        "results": [
            {
                "ranks": line.ranks,
                "operation": line.operation,
                "nbytes": line.nbytes,
                "count": line.nbytes // 4,
                "type": "float",
                "redop": line.redop,
                "root": line.root,
                "busbw_factor": line.bus_factor,
                "peer": name,
                "seconds": list(seconds),
                "wrong": line.wrong[name],
                "speedup": {ours: line.speedup(ours, name) for ours in OURS},
            }
            for line in report.lines
            for name, seconds in line.result.values.items()
        ],
    }
