"""Pictures of reports: rates and times against size, a line for each peer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .collectives_report import Report as CollectivesReport
from .errors import BenchError
from .machine import Machine
from .peers import CATALOGUE, OURS
from .quantities import format_size
from .report import Report
from .timing import Result, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FORMATS: Final = (".png", ".svg")
_TICKS: Final = 6  # sizes that are named on an axis, about

Draw = Callable[["Axes"], None]


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
    """Draw throughput and latency against size to `path`, PNG or SVG by its suffix.

    Raises:
        BenchError: as `check_plot`, or the report holds no throughput and no latency.
    """
    panels: list[Draw] = []
    one_way, round_trips = _of(report, "one-way"), _of(report, "round-trip")
    if one_way:
        panels.append(_against_size(one_way, "one way, GB/s", _in_gigabytes))
    if round_trips:
        panels.append(_against_size(round_trips, "round trip, µs", _in_microseconds))
    if not panels:
        raise BenchError("nothing to draw: neither one-way nor round-trip")
    _write(path, panels, "Two processes of one host", report.machine)


def write_collectives_plot(report: CollectivesReport, path: Path) -> None:
    """Draw busbw against size to `path`, a panel for each operation and number of ranks.

    Raises:
        BenchError: as `check_plot`, or the report holds no line.
    """
    panels: list[Draw] = []
    kinds = dict.fromkeys((line.operation, line.ranks) for line in report.lines)
    for operation, ranks in kinds:
        lines = [
            line for line in report.lines if (line.operation, line.ranks) == (operation, ranks)
        ]
        what = f"{operation}, {ranks} ranks: busbw, GB/s"
        panels.append(_against_size([line.result for line in lines], what, lines[0].busbw))
    if not panels:
        raise BenchError("nothing to draw: no operation was measured")
    _write(path, panels, "Collective operations of one host", report.machine)


def _write(path: Path, panels: Sequence[Draw], title: str, machine: Machine) -> None:
    check_plot(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5 * len(panels), 4.5), layout="constrained")
    for place, draw in enumerate(panels, start=1):
        draw(figure.add_subplot(1, len(panels), place))
    figure.suptitle(
        f"{title}, {machine.cpu}, {machine.cores} cores, {machine.date[:10]}", fontsize=9
    )
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a picture; the same figures make the same file, without random ids and dates."""
    import matplotlib as mpl

    undated = {"Date": None} if path.suffix.lower() == ".svg" else {"Software": None}
    with mpl.rc_context({"svg.hashsalt": "sealfabric"}):
        figure.savefig(path, dpi=150, metadata=undated)


def _of(report: Report, measurement: str) -> list[Result]:
    return [
        result
        for result in report.run.results
        if result.task.measurement == measurement and result.values
    ]


def _in_gigabytes(_nbytes: int, rate: float) -> float:
    return rate / 1e9


def _in_microseconds(_nbytes: int, seconds: float) -> float:
    return seconds * 1e6


def _against_size(
    results: Sequence[Result], what: str, value: Callable[[int, float], float]
) -> Draw:
    """Medians over rounds with their spread; `value` is what to draw of a size and a value."""

    def draw(axes: Axes) -> None:
        for name in dict.fromkeys(name for result in results for name in result.values):
            sizes, medians, below, above = [], [], [], []
            for result in results:
                if name in result.values:
                    nbytes, summary = result.task.nbytes, result.summary(name)
                    middle = value(nbytes, summary.median)
                    ends = sorted(value(nbytes, end) for end in _ends(summary))
                    sizes.append(nbytes)
                    medians.append(middle)
                    below.append(middle - ends[0])
                    above.append(ends[1] - middle)
            # Ours through torch have the colour of ours, dotted.
            named = name.removeprefix("torch-").replace("sealed", "sealfabric")
            ours = named in OURS
            axes.errorbar(
                sizes,
                medians,
                yerr=[below, above],
                capsize=2,
                label=name,
                color=f"C{list(CATALOGUE).index(named)}",  # the same in every picture
                linewidth=2.5 if ours else 1.2,
                linestyle="--" if not ours else "-" if named == name else ":",
                marker="o" if ours else ".",
            )
        sizes = [result.task.nbytes for result in results]
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(sizes, [format_size(nbytes) for nbytes in sizes])
        axes.minorticks_off()
        axes.set_xlabel("size")
        axes.set_ylabel(f"{what} (median, min to max)")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)

    return draw


def _ends(summary: Summary) -> tuple[float, float]:
    return summary.min, summary.max
