"""A picture of a report: flow completion, queue and rate over time, a row for each case."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import isinf
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import BenchError
from ..plot import check_plot, save
from .experiment import Curve
from .report import MODEL, Report
from .runner import CaseOutcomes, Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["check_plot", "write_plot"]

_COLOURS: Final = {"srd": "C0", "tcp-like": "C3"}
_PANEL: Final = (5.0, 3.6)  # inches
_MILLISECOND: Final = 1e-3
_FAR: Final = 5.0

Draw = Callable[["Axes", CaseOutcomes], None]


def write_plot(report: Report, path: Path) -> None:
    """Draw the report to `path`, PNG or SVG by its suffix.

    Raises:
        BenchError: the name ends in no known format, matplotlib is not installed, or
            the report has nothing to draw.
    """
    check_plot(path)
    from matplotlib.figure import Figure

    rows = [(case, panels(case)) for case in report.cases]
    columns = max((len(drawn) for _, drawn in rows), default=0)
    if not columns:
        raise BenchError("nothing to draw: no flow has ended and nothing was sampled")
    figure = Figure(
        figsize=(_PANEL[0] * columns, _PANEL[1] * len(rows) + 0.6), layout="constrained"
    )
    for row, (case, drawn) in enumerate(rows):
        for column, draw in enumerate(drawn):
            axes = figure.add_subplot(len(rows), columns, row * columns + column + 1)
            draw(axes, case)
            if column == 0:
                axes.set_title(case.case.title, fontsize=9, loc="left")
    figure.suptitle(MODEL, fontsize=8)
    save(figure, path)


def panels(case: CaseOutcomes) -> list[Draw]:
    """What there is to draw of a case, in order."""
    present = {c.panel for outcome in case.outcomes for c in outcome.curves if c.times}
    found: list[Draw] = []
    if not case.case.endless and any(_ended(outcome) for outcome in case.outcomes):
        found.append(_draw_completion)
    for panel, draw in _OVER_TIME.items():
        if panel in present:
            found.append(draw)
    return found


def _ended(outcome: Outcome) -> list[float]:
    return [each for each in outcome.durations if not isinf(each)]


def _draw_completion(axes: Axes, case: CaseOutcomes) -> None:
    from matplotlib.ticker import NullFormatter

    for policy in case.policies:
        outcomes = case.of(policy)
        times = sorted(each for outcome in outcomes for each in _ended(outcome))
        flows = sum(len(outcome.durations) for outcome in outcomes)
        if times:
            shares = [(place + 1) / flows for place in range(len(times))]
            micro = [each * 1e6 for each in times]
            axes.step(
                [micro[0], *micro], [0, *shares], where="post", color=_COLOURS[policy], label=policy
            )
    if "slowest" in case.case.ideal:
        axes.axvline(case.case.ideal["slowest"] * 1e6, color="0.4", ls="--", lw=1, label="ideal")
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(0, 1.02)
    _finish(axes, "flow completion, µs", "share of flows, all seeds")


def _draw_queue(axes: Axes, case: CaseOutcomes) -> None:
    _draw_course(axes, case, "queue", 1024.0)
    _finish(axes, "time, ms", "deepest watched queue, KiB")


def _draw_rate(axes: Axes, case: CaseOutcomes) -> None:
    for fault in case.case.faults:
        axes.axvline(fault.at / _MILLISECOND, color="0.4", ls="--", lw=1, label="fault")
    fastest = max(value for _, curve in _curves(case, "rate") for value in curve.values)
    name, unit = ("Gb/s", 1e9) if fastest >= 1e9 else ("Mb/s", 1e6)
    _draw_course(axes, case, "rate", unit)
    _finish(axes, "time, ms", f"goodput of all flows, {name}")


def _draw_flows(axes: Axes, case: CaseOutcomes) -> None:
    _draw_course(axes, case, "flows", 1e9, alpha=0.5)
    _finish(axes, "time, ms", "rate of each of some flows, Gb/s")


def _draw_jain(axes: Axes, case: CaseOutcomes) -> None:
    _draw_course(axes, case, "jain", 1.0)
    axes.set_ylim(0, 1.05)
    _finish(axes, "time, ms", "Jain index of the flows' rates")


_OVER_TIME: Final[dict[str, Draw]] = {
    "queue": _draw_queue,
    "rate": _draw_rate,
    "flows": _draw_flows,
    "jain": _draw_jain,
}


def _draw_course(
    axes: Axes, case: CaseOutcomes, panel: str, unit: float, alpha: float = 0.9
) -> None:
    """The curves of a panel, those of the first seed; each policy has its colour."""
    ends = []
    labelled: set[str] = set()
    for policy, curve in _curves(case, panel):
        times = [time / _MILLISECOND for time in curve.times]
        values = [value / unit for value in curve.values]
        label = None if policy in labelled else policy
        axes.plot(times, values, color=_COLOURS[policy], lw=1, alpha=alpha, label=label)
        labelled.add(policy)
        ends += times[-1:]
    if ends and max(ends) > _FAR * min(ends):
        # One policy takes a hundred times as long: both are to be seen.
        axes.set_xscale("symlog", linthresh=min(ends))


def _curves(case: CaseOutcomes, panel: str) -> Iterator[tuple[str, Curve]]:
    for outcome in case.outcomes:
        for curve in outcome.curves:
            if curve.panel == panel and curve.times:
                yield outcome.policy, curve


def _finish(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
