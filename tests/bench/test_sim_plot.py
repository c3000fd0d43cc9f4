"""Pictures of simulations, by their suffix."""

from __future__ import annotations

import pytest

from bench.errors import BenchError
from bench.sim.courses import Failure, Fairness
from bench.sim.plot import panels, write_plot
from bench.sim.report import Report
from bench.sim.runner import run_experiment
from bench.sim.transfers import Incast

pytest.importorskip("matplotlib", reason="matplotlib is not installed")


def simulated(experiment, *, sampled: bool = True, policies=("srd", "tcp-like")) -> Report:
    cases = run_experiment(experiment, (1,), policies, sampled=sampled)
    return Report(experiment=experiment, seeds=(1,), cases=cases)


INCAST = Incast(size=100_000, senders=3, paths=4)
FAIRNESS = Fairness(senders=2, paths=4, span=1e-3, warmup=0.0, interval=0.25e-3)
FAILURE = Failure(paths=4, messages=12)


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_a_plot_is_what_its_suffix_says_and_the_same_each_time(tmp_path, suffix, magic):
    report = simulated(INCAST)
    first, second = (tmp_path / f"{name}{suffix}" for name in ("first", "second"))
    write_plot(report, first)
    write_plot(report, second)
    assert first.read_bytes().startswith(magic)
    assert first.read_bytes() == second.read_bytes()


def test_flows_that_end_show_completion_queue_and_rate():
    (case,) = simulated(INCAST).cases
    assert len(panels(case)) == 3


def test_endless_flows_show_their_courses(tmp_path):
    report = simulated(FAIRNESS)
    assert len(panels(report.cases[0])) == 3  # queue, flows, Jain's index
    write_plot(report, tmp_path / "fairness.svg")


def test_each_case_has_a_row_of_its_own(tmp_path):
    report = simulated(FAILURE, policies=("srd",))
    path = tmp_path / "failure.svg"
    write_plot(report, path)
    text = path.read_text(encoding="utf-8")
    assert len(report.cases) == 2
    for case in report.cases:
        assert case.case.title in text


def test_without_samples_there_is_still_the_completion(tmp_path):
    report = simulated(INCAST, sampled=False, policies=("srd",))
    assert len(panels(report.cases[0])) == 1
    write_plot(report, tmp_path / "completion.png")


def test_there_must_be_something_to_draw(tmp_path):
    report = simulated(Incast(size=100_000, senders=2, deadline=1e-6), policies=("srd",))
    bare = Report(experiment=report.experiment, seeds=(1,), cases=())
    with pytest.raises(BenchError, match="nothing to draw"):
        write_plot(bare, tmp_path / "figure.png")


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(BenchError, match=r"\.gif"):
        write_plot(simulated(INCAST, policies=("srd",)), tmp_path / "figure.gif")
