"""The demonstration succeeds with sealed nodes, and fails where nothing is sealed."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from transport.cli import main
from transport.cli.demo import Demo
from transport.cli.demo_control import found_in_the_clear
from transport.cli.demo_report import Report
from transport.cli.demo_tensors import small_tensors

ROOT = Path(__file__).parents[2]
PLAIN_PEER = Path(__file__).with_name("plain_peer.py")
MIB = 1024 * 1024


def test_the_demonstration_runs_from_end_to_end(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "transport", "demo", "--megabytes", "4"],
        capture_output=True,
        text=True,
        timeout=100,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout
    assert "all of them ok" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert list(tmp_path.iterdir()) == []  # keys and secret are gone


def test_it_fails_where_nothing_is_sealed(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    report = Report()
    with ExitStack() as stack:
        command = (sys.executable, str(PLAIN_PEER))
        demo = Demo(stack, report, nbytes=4 * MIB, seed=3, command=command)
        demo.link()
        demo.move()
        demo.part()
        demo.search()
    assert report.conclude(0.0) == 1
    assert len(report.failed) == 3
    entropy, runs, names = report.failed
    assert "bits of entropy" in entropy
    assert "no 16-byte run of any tensor" in runs
    assert "no name, tag, public key or secret" in names


def test_the_search_finds_every_tensor_that_travels_in_the_clear():
    tensors = [tensor for tensor in small_tensors(5) if tensor.array.size]
    assert found_in_the_clear(tensors) == [tensor.name for tensor in tensors]


@pytest.mark.parametrize("arguments", [["--megabytes", "0"], ["--seed", "-1"]])
def test_impossible_arguments_are_an_error_of_one_line(arguments, capsys):
    assert main(["demo", *arguments]) == 1
    assert capsys.readouterr().err.count("\n") == 1
