"""`bench collectives`: two real ranks, what is printed, and what is written."""

from __future__ import annotations

import argparse
import json

import pytest

from bench.collectives import SCHEMA, Measured, Task, add_arguments, run, table
from bench.errors import BenchError
from bench.rank_worker import OPERATIONS

KIB = 1024


def arguments(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


def test_every_operation_is_right_and_reported(tmp_path, capsys):
    target = tmp_path / "collectives.json"
    words = ("--ranks", "2", "--sizes", "64,64KiB", "--rounds", "1", "--peers", "sealfabric")
    only = ("--only", ",".join(OPERATIONS))
    assert run(arguments(*words, *only, "--json", str(target))) == 0
    printed = capsys.readouterr().out
    assert all(f"{each} " in printed for each in OPERATIONS)
    assert "#wrong" in printed
    report = json.loads(target.read_text(encoding="utf-8"))
    assert report["schema"] == SCHEMA
    assert len(report["results"]) == 2 * len(OPERATIONS)
    for each in report["results"]:
        assert each["wrong"] == 0
        assert len(each["seconds"]) == 1
        assert each["seconds"][0] > 0


def test_wrong_elements_are_counted():
    task = Task(ranks=2, operation="all_reduce", nbytes=4 * KIB)
    results = {task: {"sealfabric": Measured(seconds=[1e-3], wrong=3)}}
    line = table(results, 2).splitlines()[-1].split()
    assert line[:3] == ["all_reduce", "sealfabric", "4096"]
    assert line[-1] == "3"


def test_the_ratio_is_theirs_by_ours_in_the_same_round():
    task = Task(ranks=2, operation="all_reduce", nbytes=64)
    row = {"sealfabric": Measured(seconds=[1.0, 2.0]), "gloo": Measured(seconds=[3.0, 6.0])}
    assert table({task: row}, 2).splitlines()[-1].split()[-1] == "3.00"


@pytest.mark.parametrize(
    ("operation", "ranks", "factor"),
    [
        ("all_reduce", 2, 1.0),
        ("all_reduce", 4, 1.5),
        ("all_gather", 4, 0.75),
        ("reduce_scatter", 2, 0.5),
        ("broadcast", 4, 1.0),
    ],
)
def test_bus_bandwidth_is_that_of_nccl_tests(operation, ranks, factor):
    assert Task(ranks=ranks, operation=operation, nbytes=64).bus_factor == factor


@pytest.mark.parametrize(
    "words", [("--peers", "nobody"), ("--only", "sort"), ("--rounds", "0"), ("--ranks", "two")]
)
def test_arguments_that_make_no_sense_are_refused(words):
    with pytest.raises(BenchError):
        run(arguments(*words))
