"""Targets are judged by ratios of the same rounds, and only by what was measured."""

from __future__ import annotations

import pytest

from bench.collectives_report import Line, Report
from bench.machine import describe_machine
from bench.targets import (
    Target,
    collectives_targets,
    p2p_targets,
    render_targets,
    targets_markdown,
)
from bench.timing import Result, Run, Task


def result(measurement, nbytes, p99=None, **values):
    return Result(
        task=Task(measurement=measurement, nbytes=nbytes, unit="s", better="lower"),
        values={name.replace("_", "-"): each for name, each in values.items()},
        p99=p99 or {},
    )


def verdicts(targets):
    return {each.work: (each.measured, each.verdict) for each in targets}


@pytest.mark.parametrize(
    ("better", "measured", "verdict"),
    [
        ("higher", 2.0, "met"),
        ("higher", 1.9, "missed"),
        ("lower", 2.0, "met"),
        ("lower", 2.1, "missed"),
        ("lower", None, "not measured"),
    ],
)
def test_a_bound_is_met_missed_or_not_measured(better, measured, verdict):
    assert Target(work="w", better=better, bound=2.0, measured=measured).verdict == verdict


def test_what_was_not_measured_is_not_judged():
    assert {each.verdict for each in p2p_targets(Run())} == {"not measured"}


def test_ratios_are_of_the_same_rounds():
    run = Run(
        results=(
            result("one-way", 2**28, sealfabric=(8.0, 1.0, 6.0), gloo=(2.0, 1.0, 3.0)),
            result("cipher", 2**20, aes_256_gcm=(16.0, 10.0, 10.0)),
            result(
                "round-trip",
                64,
                sealfabric=(20e-6, 30e-6, 20e-6),
                gloo=(200e-6, 100e-6, 100e-6),
                p99={"sealfabric": (900e-6, 100e-6, 300e-6)},
            ),
            result("exchange", 64, sealfabric=(2.0, 2.0, 2.0), sealfabric_tcp=(1.0, 4.0, 2.0)),
        )
    )
    found = verdicts(p2p_targets(run))
    assert found["256 MiB one way, by gloo"] == (2.0, "met")
    assert found["256 MiB one way, by one core's AES-256-GCM"] == (0.5, "met")
    assert found["64 B round trip"] == (pytest.approx(20.0), "met")
    assert found["64 B round trip, by gloo"] == (0.2, "met")
    assert found["64 B round trip, p99 by median"] == (pytest.approx(15.0), "missed")
    assert found["4 ranks exchange 64 B, by the same over TCP"] == (1.0, "met")
    assert found["256 MiB one way over TCP, by pyzmq"] == (None, "not measured")


def test_all_reduce_is_compared_with_gloo_on_two_ranks():
    report = Report(machine=describe_machine(), rounds=1)
    times = {"sealfabric": (1.0,), "sealfabric-tcp": (4.0,), "gloo": (3.0,)}
    for ranks, nbytes in ((2, 64), (4, 2**20)):
        measured = Result(task=result("all_reduce", nbytes).task, values=times)
        report.add(ranks, (Line(ranks=ranks, result=measured, wrong={}),), ())
    found = verdicts(collectives_targets(report))
    assert found["all_reduce of 64 B, sealfabric by gloo"] == (3.0, "missed")
    assert found["all_reduce of 64 B, sealfabric-tcp by gloo"] == (0.75, "missed")
    assert found["all_reduce of 1 MiB, torch-sealed by gloo"] == (None, "not measured")


def test_the_table_has_a_line_for_each():
    target = Target(work="some work", better="lower", bound=25.0, measured=19.6, unit="us")
    lines = [line.split() for line in render_targets([target]).splitlines()]
    assert lines[-1] == ["some", "work", "≤", "25.00", "us", "19.60", "us", "met"]


def test_a_document_shows_what_was_measured_and_what_was_missed():
    shown = targets_markdown(
        [
            Target(work="this", better="higher", bound=2.0, measured=1.9),
            Target(work="that", better="lower", bound=25.0, measured=20.0, unit="us"),
            Target(work="other", better="lower", bound=1.0, measured=None),
        ]
    )
    assert shown.splitlines()[2:] == [
        "| this | ≥ 2.00 x | **1.90 x, missed** |",
        "| that | ≤ 25.00 us | 20.00 us |",
    ]
