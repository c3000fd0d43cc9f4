"""Pictures, by their suffix."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.machine import describe_machine
from bench.plot import check_plot, write_plot
from bench.report import Report
from bench.timing import Result, Run, Task

pytest.importorskip("matplotlib", reason="matplotlib is not installed")


def report(*measurements: str) -> Report:
    results = tuple(
        Result(
            task=Task(measurement=measurement, nbytes=2**20, unit="s", better="lower"),
            values={"sealfabric": (1.0, 2.0), "pyzmq": (2.0, 3.0)},
        )
        for measurement in measurements
    )
    return Report(machine=describe_machine(), settings={}, run=Run(results=results))


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_a_plot_is_what_its_suffix_says(tmp_path, suffix, magic):
    path = tmp_path / f"figure{suffix}"
    write_plot(report("one-way", "round-trip", "handshake"), path)
    assert path.read_bytes().startswith(magic)


@pytest.mark.parametrize("measurement", ["one-way", "round-trip"])
def test_one_panel_is_enough(tmp_path, measurement):
    path = tmp_path / "figure.svg"
    write_plot(report(measurement), path)
    assert path.stat().st_size > 0


def test_other_suffixes_are_refused():
    with pytest.raises(BenchError, match=r"\.gif"):
        check_plot(Path("figure.gif"))


def test_there_must_be_something_to_draw(tmp_path):
    with pytest.raises(BenchError, match="nothing to draw"):
        write_plot(report("rate"), tmp_path / "figure.png")
