"""A short run with a real service in a process of its own."""

from __future__ import annotations

import argparse

import pytest

from bench import kms
from bench.errors import BenchError


def test_a_key_service_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert kms.run(argparse.Namespace(rounds=1, seconds=0.3)) == 0
    lines = capsys.readouterr().out.splitlines()[-2:]
    assert all(float(line.split()[-1]) > 0 for line in lines)


def test_rounds_must_be_positive() -> None:
    with pytest.raises(BenchError, match="positive"):
        kms.run(argparse.Namespace(rounds=0, seconds=1.0))
