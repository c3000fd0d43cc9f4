"""Results as a table for people and as JSON for programs.

JSON holds base units (bytes, seconds, bytes/s, messages/s) and every round's value;
`SCHEMA` names its version and changes whenever a reader would have to.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .machine import Machine
from .peers import OURS
from .quantities import display_unit, format_size
from .timing import Result, Run, summarise

SCHEMA = "sealfabric.bench.p2p/2"

TITLES = {
    "one-way": "one way",
    "round-trip": "round trip",
    "rate": "message rate",
    "exchange": "4 ranks, each sends to each other one",
    "waiting": "processor time of a process that waits for a message",
    "cipher": "AES-256-GCM on one core",
    "handshake": "handshake, both ends new, until a byte went there and back",
}

_NONE = "–"  # noqa: RUF001 - an en dash marks the empty place


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerNote:
    """A peer that was asked for: what it is, or why it has no figures."""

    name: str
    status: str  # "measured", "skipped" or "failed"
    version: str = ""
    about: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that one command measured."""

    machine: Machine
    settings: dict[str, Any]
    peers: tuple[PeerNote, ...] = ()
    run: Run = dataclasses.field(default_factory=Run)
    rss: dict[str, Any] | None = None
    import_time: dict[str, Any] | None = None


def to_json(report: Report) -> dict[str, Any]:
    """Return the report as values that `json` can write."""
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "machine": dataclasses.asdict(report.machine),
        "settings": report.settings,
        "peers": [dataclasses.asdict(note) for note in report.peers],
        "results": [_result_json(result) for result in report.run.results],
    }
    if report.rss is not None:
        document["rss"] = report.rss
    if report.import_time is not None:
        document["import_time"] = report.import_time
    return document


def write_json(report: Report, path: Path) -> None:
    """Write the report to `path`, replacing what is there."""
    text = json.dumps(to_json(report), indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def render(report: Report) -> str:
    """Return the whole report as text."""
    parts = [report.machine.line(), *peer_lines(report.peers)]
    parts += [
        "",
        f"Medians over {report.settings.get('rounds', '?')} rounds, the peers interleaved. "
        "Ratios are ours / peer, the median of the rounds.",
        "Round trips and handshakes: "
        + (
            "each process on its own half of the cores."
            if report.settings.get("apart")
            else "processes placed by the scheduler."
        ),
    ] * bool(report.run.results)
    for result in report.run.results:
        if result.values:
            parts += ["", render_result(result)]
    if report.rss is not None:
        parts += ["", _render_rss(report.rss)]
    if report.import_time is not None:
        parts += ["", _render_import_time(report.import_time)]
    return "\n".join(parts)


def render_result(result: Result) -> str:
    """Return one task as a titled table, a peer a line."""
    task = result.task
    medians = [result.summary(name).median for name in result.values]
    unit, factor = display_unit(task.unit, min(medians) if task.unit == "s" else max(medians))
    size = f", {format_size(task.nbytes)}" if task.nbytes else ""
    ours = [name for name in OURS if name in result.values and len(result.values) > 1]
    tail = ("p99",) if result.p99 else ()
    rows: list[tuple[str, ...]] = [
        ("peer", "median", "min", "max", *tail, *(f"{name} / peer" for name in ours))
    ]
    for name in result.values:
        summary = result.summary(name)
        figures = [summary.median, summary.min, summary.max]
        figures += [summarise(result.p99[name]).median] if name in result.p99 else []
        rows.append(
            (
                name,
                *(f"{value / factor:.2f}" for value in figures),
                *[_NONE] * (1 + bool(tail) + 2 - len(figures)),
                *(_ratio(result, own, name) for own in ours),
            )
        )
    title = f"{TITLES[task.measurement]}{size}: {unit}, {task.better} is better"
    return "\n".join([title, *aligned(rows)])


def _ratio(result: Result, ours: str, theirs: str) -> str:
    return _NONE if ours == theirs else f"{result.ratio(ours, theirs).median:.2f}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines, the first column to the left and the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def peer_lines(peers: Sequence[PeerNote]) -> list[str]:
    """Say of each peer what it is, or why it has no figures."""
    lines = []
    for note in peers:
        if note.status == "measured":
            lines.append(f"  {note.name}: {'; '.join(filter(None, (note.version, note.about)))}")
        else:
            reason = note.reason.replace("\n", "\n      ")
            lines.append(f"  {note.name}: {note.status.upper()}, {reason}")
    return lines


def _result_json(result: Result) -> dict[str, Any]:
    return {
        **dataclasses.asdict(result.task),
        "peers": {
            name: {
                "rounds": list(values),
                **dataclasses.asdict(result.summary(name)),
                **({"p99": list(result.p99[name])} if name in result.p99 else {}),
            }
            for name, values in result.values.items()
        },
        "ratios": {
            own: {
                name: dataclasses.asdict(result.ratio(own, name))
                for name in result.values
                if name != own
            }
            for own in OURS
            if own in result.values
        },
    }


def _render_rss(rss: dict[str, Any]) -> str:
    mebi = 2**20
    rows = [("process", "peak - tensor", "before any tensor", "growth during transfer")]
    for role in ("sender", "receiver"):
        own = rss[role]
        rows.append(
            (
                role,
                f"{(own['peak'] - rss['nbytes']) / mebi:.1f}",
                f"{own['idle'] / mebi:.1f}",
                f"{(own['peak'] - own['with_tensor']) / mebi:.1f}",
            )
        )
    title = (
        f"resident memory, one message of {format_size(rss['nbytes'])} with {rss['peer']}, "
        f"{rss['seconds']:.2f} s: MiB"
    )
    return "\n".join([title, *aligned(rows)])


def _render_import_time(timing: dict[str, Any]) -> str:
    rows: list[tuple[str, ...]] = [("statement", "median", "min", "max")]
    for label, summary in timing["statements"].items():
        figures = (f"{summary[key] * 1e3:.1f}" for key in ("median", "min", "max"))
        rows.append((label, *figures))
    return "\n".join(
        [
            "import time, each in a fresh interpreter: ms, lower is better",
            *aligned(rows),
            f"  ratio, median of {timing['rounds']} rounds: {timing['ratio']['median']:.2f}; "
            f"with the names in use: {timing['ratio_in_use']['median']:.2f}",
        ]
    )
