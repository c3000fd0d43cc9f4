"""The ratios of a run as one Markdown table, for a document that shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from .peers import OURS
from .quantities import display_unit, format_size
from .report import Report
from .timing import Result

HEADINGS: Final = {
    "pyzmq": "pyzmq, plaintext",
    "pyzmq-tuned": "pyzmq tuned, plaintext",
    "curve": "pyzmq with CURVE",
    "tls": "Python TLS 1.3",
    "gloo": "Gloo, plaintext",
    "mpi-tcp": "OpenMPI, plaintext TCP",
    "mpi-shm": "OpenMPI, plaintext shared memory",
}
WHERE: Final = {
    "sealfabric": "same host",
    "sealfabric-tcp": "TCP alone",
    "torch-sealed": "torch.distributed, same host",
    "torch-sealed-tcp": "torch.distributed, TCP alone",
}
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
    headings = [HEADINGS.get(name, name) for name in others]
    lines = [
        row(["", "Sealfabric, sealed", *headings]),
        f"|{'---|' * (2 + len(others))}",
    ]
    for own in OURS:
        for result in report.run.results:
            if result.task.measurement in _TITLES and own in result.values:
                lines.append(row(_cells(result, own, others)))
    return "\n".join(lines)


def _cells(result: Result, own: str, others: list[str]) -> list[str]:
    task = result.task
    title = _TITLES[task.measurement].format(size=format_size(task.nbytes))
    median = result.summary(own).median
    unit, factor = display_unit(task.unit, median)
    figure = f"{median / factor:.3g} {unit}"
    if task.unit == "messages/s":
        figure = f"{median:,.0f}"
    cells = [f"{title}, {WHERE[own]}", figure]
    for name in others:
        if name not in result.values:
            cells.append("")
            continue
        ratio = result.ratio(own, name).median
        ahead = ratio > 1 if task.better == "higher" else ratio < 1
        cells.append(f"**{ratio:.2f} ×**" if ahead else f"{ratio:.2f} ×")  # noqa: RUF001
    return cells


def row(cells: list[str]) -> str:
    """Return a line of a Markdown table."""
    return f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in cells)}|"
