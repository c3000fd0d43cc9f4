"""Two trees beside each other: the workers import the right one, and errors are told."""

from __future__ import annotations

import argparse
import json
import shutil

import pytest

from bench import against
from bench.against import HERE, SCHEMA, THERE, add_arguments, measure, ratio_of, run
from bench.errors import BenchError
from bench.timing import Result, Sample, Task
from support.source_tree import PROJECT_ROOT

RATE = Task(measurement="rate", nbytes=64, unit="messages/s", better="higher")
TRIP = Task(measurement="round-trip", nbytes=64, unit="s", better="lower")


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


@pytest.fixture
def other(tmp_path):
    """A copy of this package that calls itself by another version, and broken benchmarks."""
    tree = tmp_path / "other"
    package = tree / "transport"
    shutil.copytree(PROJECT_ROOT / "transport", package)
    source = package / "__init__.py"
    source.write_text(source.read_text(encoding="utf-8") + '\n__version__ = "9.9"\n')
    (tree / "bench").mkdir()
    (tree / "bench" / "__init__.py").write_text("raise ImportError('of the other tree')\n")
    return tree


def test_each_trees_workers_run_that_trees_package(other):
    ran = []

    def sample(peer, task):
        ran.append((peer.version, peer.library))
        return Sample(value=peer.message_rate(task.nbytes, 20))

    (result,) = measure(other, 2, (RATE,), deadline=30.0, sample=sample)
    assert [len(result.values[name]) for name in (HERE, THERE)] == [2, 2]
    theirs = ("sealfabric 9.9", other / "transport")
    # Each warms up before it is timed, and the order alternates.
    assert [each == theirs for each in ran] == [False] * 2 + [True] * 4 + [False] * 2


def test_it_prints_a_line_a_task_and_writes_json(tmp_path, capsys, monkeypatch):
    (tmp_path / "transport").mkdir()
    found = tuple(
        Result(task=task, values={HERE: (3.0, 3.0), THERE: (2.0, 4.0)}) for task in (RATE, TRIP)
    )
    monkeypatch.setattr(against, "measure", lambda tree, rounds, tasks, deadline: found)
    target = tmp_path / "against.json"
    assert run(arguments("--tree", str(tmp_path), "--rounds", "2", "--json", str(target))) == 0
    printed = capsys.readouterr().out
    assert "rate, 64 B" in printed
    assert "round-trip, 64 B" in printed
    report = json.loads(target.read_text(encoding="utf-8"))
    assert report["schema"] == SCHEMA
    assert [each["ratio"]["median"] for each in report["results"]] == pytest.approx([1.125, 1.0])


def test_more_is_better_for_rates_and_worse_for_times():
    values = {HERE: (2.0,), THERE: (1.0,)}
    assert ratio_of(Result(task=RATE, values=values)).median == 2.0
    assert ratio_of(Result(task=TRIP, values=values)).median == 0.5


def test_without_another_tree_there_is_nothing_to_compare_with(tmp_path):
    with pytest.raises(BenchError, match="holds no package 'transport'"):
        run(arguments("--tree", str(tmp_path)))
    with pytest.raises(BenchError, match="must be positive"):
        run(arguments("--tree", str(PROJECT_ROOT), "--rounds", "0"))
