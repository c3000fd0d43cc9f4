"""Short runs with real processes: every kind of handshake is measured, and compared with plain."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.handshake import KINDS, PLAIN, SCHEMA, add_arguments, run


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


def test_every_kind_is_measured_and_compared_with_plain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "handshake.json"
    assert run(arguments("--rounds", "2", "--handshakes", "1", "--json", str(target))) == 0
    printed = capsys.readouterr().out
    assert "a model, not hardware" in printed
    report = json.loads(target.read_text(encoding="utf-8"))
    assert report["schema"] == SCHEMA
    assert list(report["kinds"]) == list(KINDS)
    for kind, each in report["kinds"].items():
        assert len(each["seconds"]) == 2
        assert 0 < each["min"] <= each["median"] <= each["max"]
        (line,) = (line for line in printed.splitlines() if line.startswith(f"  {kind} "))
        assert float(line.split()[-1]) == pytest.approx(each["ratio"]["median"], abs=0.006)
    assert report["kinds"][PLAIN]["ratio"] == {"median": 1.0, "min": 1.0, "max": 1.0}


@pytest.mark.parametrize("words", [("--rounds", "0"), ("--handshakes", "0")])
def test_there_must_be_something_to_measure(words: tuple[str, ...]) -> None:
    with pytest.raises(BenchError, match="positive"):
        run(arguments(*words))


def test_a_report_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    target = tmp_path / "absent" / "handshake.json"
    with pytest.raises(BenchError, match="cannot write"):
        run(arguments("--rounds", "1", "--handshakes", "1", "--json", str(target)))
