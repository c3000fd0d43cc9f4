"""The command: short runs with real processes, its arguments, and what it writes."""

from __future__ import annotations

import argparse
import json

import pytest

from bench.errors import BenchError
from bench.failover import SCHEMA, add_arguments, measure, run
from bench.transfers import Plan

MIB = 1024 * 1024
SMALL = ("--rounds", "2", "--size", "24MiB", "--message", "1MiB", "--paths", "3")


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


def test_a_run_prints_a_line_a_round_and_writes_json(tmp_path, capsys):
    target = tmp_path / "failover.json"
    assert run(arguments(*SMALL, "--json", str(target))) == 0
    printed = capsys.readouterr().out
    assert "24 MiB in messages of 1 MiB over 3 TCP paths" in printed
    assert [
        line.split()[:2]
        for line in printed.splitlines()
        if line.startswith("   ") and line[6:7].isdigit()
    ] == [
        ["1", "0"],
        ["2", "1"],
    ]
    assert "longest stall" in printed
    report = json.loads(target.read_text(encoding="utf-8"))
    assert report["schema"] == SCHEMA
    assert report["settings"]["messages"] == 24
    for each in report["rounds"]:
        calm, hit = each["undisturbed"], each["disturbed"]
        assert each["ratio"] == pytest.approx(hit["throughput"] / calm["throughput"])
        for transfer in (calm, hit):
            assert 0 < transfer["stall"] <= transfer["seconds"]
            assert transfer["throughput"] == pytest.approx(24 * MIB / transfer["seconds"])
            assert transfer["beyond_payload"] > 0  # headers at least


def test_a_dead_path_is_left_and_found_again():
    plan = Plan(messages=96, size=MIB, paths=3, deadline=60.0, seed=3)
    (only,) = measure(plan, rounds=1)
    assert only.path == 0
    assert only.fate.share < 0.6  # a third of it was sent over three paths, the rest over two
    assert only.fate.last_failure is not None
    assert only.disturbed.retransmissions > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--rounds", "0"), "rounds"),
        (("--deadline", "0"), "deadline"),
        (("--paths", "1"), "paths"),
        (("--paths", "251"), "paths"),
        (("--seed", "-1"), "seed"),
        (("--size", "16MiB"), "three messages"),
        (("--message", "some"), "is not a size"),
    ],
)
def test_arguments_that_make_no_sense(words, message):
    with pytest.raises(BenchError, match=message):
        run(arguments(*words))


def test_a_report_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(BenchError, match="cannot write"):
        run(arguments(*SMALL[:-2], "--rounds", "1", "--json", str(tmp_path / "absent" / "file")))
