"""A picture of a report: throughput against size, and latencies as bars."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .errors import BenchError
from .quantities import format_size
from .report import Report
from .timing import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FORMATS = (".png", ".svg")


def check_plot(path: Path) -> None:
    """Find out before a long run whether its picture can be drawn.

    Raises:
        BenchError: the name ends in no known format, or matplotlib is not installed.
    """
    if path.suffix.lower() not in _FORMATS:
        raise BenchError(f"a plot is written as {' or '.join(_FORMATS)}, not {path.name}")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise BenchError("matplotlib is not installed: pip install 'sealfabric[bench]'") from None


def write_plot(report: Report, path: Path) -> None:
    """Draw the report to `path`, PNG or SVG by its suffix.

    Raises:
        BenchError: as `check_plot`, or the report holds no throughput and no latency.
    """
    check_plot(path)
    from matplotlib.figure import Figure

    one_way = _of(report, "one-way")
    latencies = _of(report, "round-trip") + _of(report, "handshake")
    if not one_way and not latencies:
        raise BenchError("nothing to draw: neither one-way nor round-trip nor handshake")
    panels = [
        *([_draw_throughput] if one_way else []),
        *([_draw_latency] if latencies else []),
    ]
    figure = Figure(figsize=(6.5 * len(panels), 4.5), layout="constrained")
    for place, draw in enumerate(panels, start=1):
        draw(figure.add_subplot(1, len(panels), place), report)
    machine = report.machine
    figure.suptitle(
        f"Two processes over loopback, {machine.cpu}, {machine.cores} cores, {machine.date[:10]}",
        fontsize=9,
    )
    figure.savefig(path, dpi=150)


def _draw_throughput(axes: Axes, report: Report) -> None:
    results = _of(report, "one-way")
    for name in _names(results):
        measured = [result for result in results if name in result.values]
        summaries = [result.summary(name) for result in measured]
        medians = [summary.median / 1e9 for summary in summaries]
        spread = [
            [(summary.median - summary.min) / 1e9 for summary in summaries],
            [(summary.max - summary.median) / 1e9 for summary in summaries],
        ]
        sizes = [result.task.nbytes for result in measured]
        axes.errorbar(sizes, medians, yerr=spread, marker="o", capsize=3, label=name)
    sizes = [result.task.nbytes for result in results]
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [format_size(nbytes) for nbytes in sizes])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("message size")
    axes.set_ylabel("one way, GB/s (median, min to max)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _draw_latency(axes: Axes, report: Report) -> None:
    results = _of(report, "round-trip") + _of(report, "handshake")
    names = _names(results)
    width = 0.8 / max(len(names), 1)
    for index, name in enumerate(names):
        places = [place for place, result in enumerate(results) if name in result.values]
        heights = [results[place].summary(name).median * 1e6 for place in places]
        offsets = [place + (index - (len(names) - 1) / 2) * width for place in places]
        axes.bar(offsets, heights, width, label=name)
    axes.set_yscale("log")
    axes.set_xticks(range(len(results)), [_label(result) for result in results])
    axes.set_ylabel("µs (median)")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8)


def _label(result: Result) -> str:
    if not result.task.nbytes:
        return result.task.measurement
    return f"{result.task.measurement}\n{format_size(result.task.nbytes)}"


def _of(report: Report, measurement: str) -> list[Result]:
    return [
        result
        for result in report.run.results
        if result.task.measurement == measurement and result.values
    ]


def _names(results: list[Result]) -> list[str]:
    return list(dict.fromkeys(name for result in results for name in result.values))
