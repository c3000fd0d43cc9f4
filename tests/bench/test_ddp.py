"""A short comparison of training steps, with real processes of both backends."""

from __future__ import annotations

import argparse
import json

import pytest

from bench import ddp
from bench.errors import BenchError


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    ddp.add_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.slow
def test_both_backends_train_to_the_same_weights(tmp_path, capsys) -> None:
    pytest.importorskip("torch")
    path = tmp_path / "ddp.json"
    words = (
        "--parameters",
        "0.05",
        "--rounds",
        "2",
        "--steps",
        "1",
        "--peers",
        "torch-sealed,gloo",
    )
    assert ddp.run(arguments(*words, "--json", str(path))) == 0
    printed = capsys.readouterr().out
    assert "All peers came to the same weights" in printed
    report = json.loads(path.read_text())
    assert set(report["seconds"]) == {"torch-sealed", "gloo"}
    assert all(len(each) == 2 and min(each) > 0 for each in report["seconds"].values())


@pytest.mark.parametrize(
    ("words", "message"),
    [(("--rounds", "0"), "positive"), (("--peers", "carrier-pigeon"), "carrier-pigeon")],
)
def test_arguments_are_checked(words, message) -> None:
    with pytest.raises(BenchError, match=message):
        ddp.run(arguments(*words))
