"""What Sealfabric means to reach, beside what a run measured: met or not, line by line.

A bound is a ratio between two peers of the same rounds wherever it can be, because
only ratios carry over from one machine to another.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from .collectives_report import Report
from .peers import OURS, TORCH_SEALED
from .quantities import format_size
from .report import aligned
from .tasks import CIPHER, CIPHER_SIZE, EXCHANGE_SIZES, RATE_SIZE
from .timing import Better, Run, summarise

_OURS, _TCP = OURS
_LARGE: Final = 256 * 2**20
_ALL_REDUCE: Final = {64: 5.0, 2**16: 3.0, 2**20: 2.0, 2**24: 2.0, 2**28: 2.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One bound and what was measured, None where the run did not measure it."""

    work: str
    better: Better
    bound: float
    measured: float | None
    unit: str = "x"

    @property
    def verdict(self) -> str:
        """`met`, `missed` or `not measured`."""
        if self.measured is None:
            return "not measured"
        short = (
            self.bound - self.measured if self.better == "higher" else self.measured - self.bound
        )
        return "missed" if short > 0 else "met"


def p2p_targets(run: Run) -> tuple[Target, ...]:
    """The bounds on what two processes, or four, of one host do."""
    return (
        _higher("256 MiB one way, by gloo", 2.0, _ratio(run, "one-way", _LARGE, "gloo")),
        _higher("256 MiB one way, by mpi-tcp", 1.2, _ratio(run, "one-way", _LARGE, "mpi-tcp")),
        _higher("256 MiB one way, by one core's AES-256-GCM", 0.45, _of_the_cipher(run)),
        _higher("1 MiB one way, by gloo", 1.5, _ratio(run, "one-way", 2**20, "gloo")),
        _lower("64 B round trip", 25.0, _median(run, "round-trip", 64, 1e-6), "us"),
        _lower("64 B round trip, by gloo", 0.2, _ratio(run, "round-trip", 64, "gloo")),
        _lower("64 B round trip, p99 by median", 10.0, _tail(run, "round-trip", 64)),
        _lower("64 KiB round trip, by gloo", 1 / 3, _ratio(run, "round-trip", 2**16, "gloo")),
        _higher(
            "64 B messages a second, thousands", 100.0, _median(run, "rate", RATE_SIZE, 1e3), "k/s"
        ),
        _lower("a process that waits", 1.0, _median(run, "waiting", 0, 1e-2), "%"),
        *(
            _lower(
                f"4 ranks exchange {format_size(nbytes)}, by the same over TCP",
                1.0,
                _ratio(run, "exchange", nbytes, _TCP),
            )
            for nbytes in EXCHANGE_SIZES
        ),
        _higher(
            "256 MiB one way over TCP, by pyzmq",
            0.8,
            _ratio(run, "one-way", _LARGE, "pyzmq", ours=_TCP),
        ),
    )


def collectives_targets(report: Report) -> tuple[Target, ...]:
    """The bounds on all_reduce among two ranks, as times as fast as Gloo."""
    found = {
        (line.nbytes, ours): line.speedup(ours, "gloo")
        for line in report.lines
        if (line.operation, line.ranks) == ("all_reduce", 2)
        for ours in (*OURS, *TORCH_SEALED)
    }
    return tuple(
        _higher(
            f"all_reduce of {format_size(nbytes)}, {ours} by gloo",
            1.0 if ours.endswith("-tcp") else times,
            found.get((nbytes, ours)),
        )
        for ours in (*OURS, *TORCH_SEALED)
        for nbytes, times in _ALL_REDUCE.items()
    )


def render_targets(targets: Iterable[Target]) -> str:
    """Return the targets as a table."""
    rows = [("target", "bound", "measured", ""), *map(_cells, targets)]
    return "\n".join(["", "Targets", *aligned(rows)])


def targets_markdown(targets: Iterable[Target]) -> str:
    """Return the targets that were measured as a Markdown table, the missed ones bold."""
    lines = ["| target | bound | measured |", "|---|---|---|"]
    for each in targets:
        work, bound, measured, verdict = _cells(each)
        if each.measured is not None:
            measured = f"**{measured}, missed**" if verdict == "missed" else measured
            lines.append(f"| {work} | {bound} | {measured} |")
    return "\n".join(lines)


def _cells(target: Target) -> tuple[str, str, str, str]:
    sign = "≥" if target.better == "higher" else "≤"
    measured = "" if target.measured is None else f"{target.measured:.2f} {target.unit}"
    return target.work, f"{sign} {target.bound:.2f} {target.unit}", measured, target.verdict


def _higher(work: str, bound: float, measured: float | None, unit: str = "x") -> Target:
    return Target(work=work, better="higher", bound=bound, measured=measured, unit=unit)


def _lower(work: str, bound: float, measured: float | None, unit: str = "x") -> Target:
    return Target(work=work, better="lower", bound=bound, measured=measured, unit=unit)


def _ratio(
    run: Run, measurement: str, nbytes: int, theirs: str, *, ours: str = _OURS
) -> float | None:
    result = run.find(measurement, nbytes)
    if result is None or not {ours, theirs} <= set(result.values):
        return None
    return result.ratio(ours, theirs).median


def _median(run: Run, measurement: str, nbytes: int, unit: float) -> float | None:
    result = run.find(measurement, nbytes)
    if result is None or _OURS not in result.values:
        return None
    return result.summary(_OURS).median / unit


def _tail(run: Run, measurement: str, nbytes: int) -> float | None:
    result = run.find(measurement, nbytes)
    if result is None or _OURS not in result.p99:
        return None
    return summarise(result.p99[_OURS]).median / result.summary(_OURS).median


def _of_the_cipher(run: Run) -> float | None:
    ours, cipher = run.find("one-way", _LARGE), run.find("cipher", CIPHER_SIZE)
    if ours is None or cipher is None or _OURS not in ours.values or CIPHER not in cipher.values:
        return None
    pairs = zip(ours.values[_OURS], cipher.values[CIPHER], strict=True)
    return summarise([moved / sealed for moved, sealed in pairs]).median
