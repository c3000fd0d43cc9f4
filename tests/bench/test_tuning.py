"""`bench tuning`: groups that differ in one threshold, what is printed, and what is written."""

from __future__ import annotations

import argparse
import json

import pytest

from bench.errors import BenchError
from bench.tuning import SCHEMA, add_arguments, run, variation
from transport.collectives import Tuning


def arguments(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


def test_groups_of_every_value_are_measured(tmp_path, capsys):
    target = tmp_path / "tuning.json"
    words = "--vary pair_limit=0 --ranks 2 --sizes 500000 --rounds 1"
    assert run(arguments(*words.split(), "--json", str(target))) == 0
    assert "pair_limit = 2 MiB" in capsys.readouterr().out
    document = json.loads(target.read_text(encoding="utf-8"))
    assert document["schema"] == SCHEMA
    (result,) = document["results"]
    assert set(result["seconds"]) == {"2 MiB", "0 B"}
    assert all(seconds > 0 for (seconds,) in result["seconds"].values())


def test_a_value_that_no_group_may_have_is_a_failure():
    with pytest.raises(BenchError, match=r"Tuning\.inline"):
        run(arguments("--vary", "inline=1MiB", "--ranks", "2", "--rounds", "1"))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("piece=0,64KiB,2MiB", (Tuning().piece, 0, 65_536)),
        ("ahead=1,4,8", (Tuning().ahead, 1, 8)),
    ],
)
def test_the_default_comes_first_and_once(text, values):
    assert variation(text) == (text.partition("=")[0], values)


@pytest.mark.parametrize("text", ["piece", "piece=", "colour=1", "ahead=1MiB", "piece=much"])
def test_what_does_not_vary_is_refused(text):
    with pytest.raises(BenchError):
        variation(text)


@pytest.mark.parametrize("words", [("--only", "sing"), ("--rounds", "0"), ("--ranks", "1")])
def test_arguments_are_checked(words):
    with pytest.raises(BenchError, match="operation"):
        run(arguments("--vary", "piece=1MiB", *words))
