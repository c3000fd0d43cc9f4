"""A short run of every state, with real processes."""

from __future__ import annotations

import argparse

import pytest

from bench import flood
from bench.errors import BenchError


def test_a_flood_is_measured_beside_its_controls(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(flood, "FLOODS", flood.FLOODS[:1])
    assert flood.run(argparse.Namespace(rounds=1, seconds=0.2)) == 0
    figures = capsys.readouterr().out.splitlines()[-1].split()[-6:]
    assert all(float(figure) > 0 for figure in figures)


def test_rounds_must_be_positive() -> None:
    with pytest.raises(BenchError, match="positive"):
        flood.run(argparse.Namespace(rounds=0, seconds=1.0))
