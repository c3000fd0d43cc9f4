"""The table and the JSON document of a simulation."""

from __future__ import annotations

import json
import re
from math import inf, nan

import pytest

from bench.sim.report import MODEL, SCHEMA, Report, render, render_case, to_json, write_json
from bench.sim.runner import CaseOutcomes, Outcome, run_experiment
from bench.sim.transfers import Incast

EXPERIMENT = Incast(size=100_000, senders=3, paths=4)


def outcome(policy: str, seed: int, slowest: float, left: tuple[str, ...] = ()) -> Outcome:
    metrics = {"slowest": slowest, "median": slowest / 2, "mean": nan, "slowdown": slowest / 30e-6}
    rest = {"jain": 1.0, "goodput": 9.6e10, "queue": 2048, "dropped": 1234, "repeated": 0}
    return Outcome(
        policy=policy,
        seed=seed,
        metrics={**metrics, **rest},
        durations=(slowest / 2, slowest),
        left=left,
        drops={"buffer": 1234},
        packets=5678,
        digest="00",
    )


@pytest.fixture
def report() -> Report:
    (case,) = EXPERIMENT.cases(1)
    outcomes = (
        outcome("srd", 1, 40e-6),
        outcome("srd", 2, 50e-6),
        outcome("srd", 3, 60e-6),
        outcome("tcp-like", 1, 0.2),
        outcome("tcp-like", 2, 0.3),
        outcome("tcp-like", 3, inf, tuple(f"h{n}>h0 (0 of 100,000 bytes)" for n in range(7))),
    )
    cases = (CaseOutcomes(case=case, outcomes=outcomes),)
    return Report(experiment=EXPERIMENT, seeds=(1, 2, 3), cases=cases)


def test_a_table_has_the_ideal_ours_and_the_control(report):
    lines = render_case(report.cases[0], report.seeds).splitlines()
    assert lines[0] == "incast 3 to 1, 100,000 bytes each"
    start = next(n for n, line in enumerate(lines) if "ideal" in line)
    assert lines[start].split() == ["ideal", "srd", "(ours)", "tcp-like", "(control)"]
    cells = [re.split(r" {2,}", line.strip()) for line in lines]
    assert cells[start + 1][0] == "slowest flow, µs"
    assert cells[start + 1][2:] == ["50.0 [40.0, 60.0]", "300,000.0 [200,000.0, never]"]
    assert cells[start + 3][1:] == ["–", "– [–, –]", "– [–, –]"]  # noqa: RUF001
    assert "  seeds 1-3: median [least, most]" in lines


def test_a_table_names_the_parameters_of_its_model(report):
    text = render(report)
    assert MODEL in text
    flat = " ".join(text.split())
    assert "fat tree of 4-port switches, 16 hosts; 100 Gb/s and 0.8 µs a cable, 1 MiB" in flat
    assert "packets of 8 KiB and 66 bytes of lower layers; 4 paths a link" in flat
    assert "(the control: paths 1, retransmit_min 0.2)" in flat


def test_flows_that_were_left_are_named_but_not_all(report):
    assert not report.complete
    (line,) = (line for line in render(report).splitlines() if "LEFT" in line)
    assert line.startswith("  LEFT after 60 s, tcp-like, seed 3: 7 of 2 flows: h0>h0 (0 of")
    assert line.endswith("h4>h0 (0 of 100,000 bytes) and 2 more")


def test_one_seed_needs_no_brackets(report):
    one = CaseOutcomes(case=report.cases[0].case, outcomes=report.cases[0].outcomes[:1])
    text = render_case(one, (1,))
    assert "[" not in text
    assert "tcp-like" not in text
    assert text.endswith("  seed 1")


def test_the_document_holds_every_run_in_base_units(report, tmp_path):
    document = to_json(report)
    assert document["schema"] == SCHEMA
    assert document["experiment"] == "incast"
    assert document["parameters"]["senders"] == 3
    assert document["parameters"]["rate"] == 100e9
    assert document["seeds"] == [1, 2, 3]
    assert document["complete"] is False
    (case,) = document["cases"]
    assert case["policies"]["tcp-like"] == {"paths": 1, "retransmit_min": 0.2}
    assert case["ideal"]["slowest"] == pytest.approx(24e-6 + 12 * 0.8e-6 + 6 * 0.66448e-6)
    assert [(run["policy"], run["seed"]) for run in case["runs"]] == [
        (policy, seed) for policy in ("srd", "tcp-like") for seed in (1, 2, 3)
    ]
    last = case["runs"][-1]
    assert last["metrics"]["slowest"] is None, "what did not happen is null"
    assert last["durations"] == [None, None]
    assert len(last["left"]) == 7
    path = tmp_path / "report.json"
    write_json(report, path)
    assert json.loads(path.read_text(encoding="utf-8")) == document


def test_the_same_command_prints_the_same_table():
    texts = []
    for _ in range(2):
        cases = run_experiment(EXPERIMENT, (1, 2), ("srd", "tcp-like"), sampled=True)
        made = Report(experiment=EXPERIMENT, seeds=(1, 2), cases=cases)
        texts.append((render(made), json.dumps(to_json(made))))
    assert texts[0] == texts[1]
