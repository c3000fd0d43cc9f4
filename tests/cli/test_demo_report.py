"""The report lines up what it prints, and forgets no check that failed."""

from __future__ import annotations

import pytest

from transport.cli.demo_report import COLUMNS, Report, duration, rate, size


def test_one_failed_check_fails_the_whole(capsys):
    report = Report()
    report.check("this holds", True)
    report.check("this does not", False, "because")
    assert report.conclude(1.5) == 1
    assert (report.passed, report.failed) == (["this holds"], ["this does not"])
    printed = capsys.readouterr().out
    assert "   ok       this holds\n" in printed
    assert "   FAILED   this does not: because\n" in printed
    assert "2 checks in 1.5 s, 1 of them FAILED" in printed


def test_a_report_that_checked_nothing_is_no_success():
    assert Report().conclude(0.0) == 1


def test_checks_that_all_hold_are_a_success(capsys):
    report = Report()
    report.check("this holds", True, "not shown")
    assert report.conclude(0.0) == 0
    assert "not shown" not in capsys.readouterr().out


def test_long_lines_are_wrapped_and_columns_aligned(capsys):
    report = Report()
    report.text("word " * 60)
    report.section("Title")
    report.row("label", "value " * 40)
    report.check("claim " * 40, True)
    report.table([("a", "1"), ("long", "1000")], numeric=frozenset({1}))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= COLUMNS
    assert lines[-2:] == ["   a        1", "   long  1000"]


@pytest.mark.parametrize(
    ("nbytes", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (256 << 20, "256 MiB")]
)
def test_sizes_are_for_people(nbytes, text):
    assert size(nbytes) == text


def test_rates_and_times_are_for_people():
    assert rate(3_000_000_000, 2.0) == "1.50 GB/s"
    assert duration(None) == "not known yet"
    assert duration(0.0125) == "12.5 ms"
    assert duration(0.00007) == "70 µs"
