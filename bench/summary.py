"""The ratios of a run as one Markdown table, for a document that shows them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from .peers import OURS
from .quantities import display_unit, format_size
from .report import Report
from .timing import Result

_TITLES: Final = {
    "one-way": "{size} one way",
    "round-trip": "{size} round trip (lower is better)",
    "rate": "{size} messages a second",
    "exchange": "4 ranks exchange {size} each (lower is better)",
    "waiting": "a process that waits (lower is better)",
    "handshake": "handshake, both ends new (lower is better)",
}


def write_markdown(report: Report, path: Path) -> None:
    """Write the table to `path`, replacing what is there."""
    path.write_text(markdown(report) + "\n", encoding="utf-8")


def markdown(report: Report) -> str:
    """Return a row for each task and each of ours, a column for each other peer.

    Ours are figures; the others are ours by theirs in the same rounds, bold where ours
    is ahead.
    """
    others = [
        note.name for note in report.peers if note.status == "measured" and note.name not in OURS
    ]
    lines = [_row(["", "ours", *others]), _row(["---"] * (2 + len(others)))]
    for result in report.run.results:
        if result.task.measurement in _TITLES:
            lines += [_row(cells) for cells in _rows(result, others)]
    return "\n".join(lines)


def _rows(result: Result, others: list[str]) -> Iterator[list[str]]:
    task = result.task
    title = _TITLES[task.measurement].format(size=format_size(task.nbytes))
    for own in OURS:
        if own not in result.values:
            continue
        median = result.summary(own).median
        unit, factor = display_unit(task.unit, median)
        figure = f"{median / factor:.3g} {unit}"
        if task.unit == "messages/s":
            figure = f"{median:,.0f}"
        cells = [f"{title}, {own}", figure]
        for name in others:
            if name not in result.values:
                cells.append("")
                continue
            ratio = result.ratio(own, name).median
            ahead = ratio > 1 if task.better == "higher" else ratio < 1
            cells.append(f"**{ratio:.2f} ×**" if ahead else f"{ratio:.2f} ×")  # noqa: RUF001
        yield cells


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
