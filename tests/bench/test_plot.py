"""Pictures, by their suffix."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.collectives_report import Line
from bench.collectives_report import Report as CollectivesReport
from bench.errors import BenchError
from bench.machine import describe_machine
from bench.plot import check_plot, write_collectives_plot, write_plot
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
    write_plot(report("one-way", "round-trip"), path)
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


def test_the_same_figures_make_the_same_picture(tmp_path):
    both = report("one-way", "round-trip")
    for name in ("a.svg", "b.svg"):
        write_plot(both, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_collectives_have_a_panel_for_each_number_of_ranks(tmp_path):
    drawn = CollectivesReport(machine=describe_machine(), rounds=2)
    with pytest.raises(BenchError, match="nothing to draw"):
        write_collectives_plot(drawn, tmp_path / "none.svg")
    result = report("all_reduce").run.results[0]
    for ranks in (2, 4):
        wrong = dict.fromkeys(result.values, 0)
        drawn.add(ranks, (Line(ranks=ranks, result=result, wrong=wrong),), ())
    write_collectives_plot(drawn, tmp_path / "figure.svg")
    assert (tmp_path / "figure.svg").read_text(encoding="utf-8").count('id="axes_') == 2
