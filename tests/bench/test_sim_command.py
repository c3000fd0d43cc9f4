"""The command: what it prints and writes, and its exit status."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys

import pytest

from bench.errors import BenchError
from bench.sim.catalogue import EXPERIMENTS
from bench.sim.command import add_arguments, parse_seeds, run
from support.source_tree import PROJECT_ROOT
from transport import cli

SMALL = ["incast", "--senders", "2", "--size", "50000", "--paths", "2"]


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


def test_a_small_run_prints_and_writes(tmp_path, capsys):
    document, drawing = tmp_path / "incast.json", tmp_path / "incast.svg"
    words = ("--seeds", "1-2", "--json", str(document), "--plot", str(drawing))
    assert run(arguments(*SMALL, *words)) == 0
    text = capsys.readouterr().out
    assert "incast 2 to 1, 50,000 bytes each" in text
    assert "seeds 1-2: median [least, most]" in text
    (case,) = json.loads(document.read_text(encoding="utf-8"))["cases"]
    assert len(case["runs"]) == 4
    assert case["runs"][0]["curves"], "of the first seed"
    assert not case["runs"][2]["curves"]
    assert drawing.read_bytes().startswith(b"<?xml")


def test_two_processes_write_the_same_document_byte_for_byte(tmp_path):
    documents = [tmp_path / f"{seed}.json" for seed in ("1", "22")]
    for path in documents:
        subprocess.run(
            [sys.executable, "-m", "bench", "sim", *SMALL, "--seeds", "1-2", "--json", str(path)],
            cwd=PROJECT_ROOT,
            env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT), "PYTHONHASHSEED": path.stem},
            stdout=subprocess.DEVNULL,
            timeout=100,
            check=True,
        )
    first, second = (path.read_bytes() for path in documents)
    assert first == second
    runs = json.loads(first)["cases"][0]["runs"]
    assert len({run["digest"] for run in runs if run["policy"] == "srd"}) == 2, "seeds differ"


def test_options_are_in_the_units_that_they_name(tmp_path):
    document = tmp_path / "figures.json"
    words = "single --rate 25 --delay 2.5 --buffer 256KiB --only srd --seed 7 --size 100000"
    assert run(arguments(*words.split(), "--json", str(document))) == 0
    found = json.loads(document.read_text(encoding="utf-8"))
    assert found["parameters"]["rate"] == 25e9
    assert found["parameters"]["delay"] == pytest.approx(2.5e-6)
    assert found["parameters"]["buffer"] == 2**18
    assert found["seeds"] == [7]
    assert {each["policy"] for each in found["cases"][0]["runs"]} == {"srd"}


def test_a_run_that_is_given_up_names_what_is_left_and_fails(capsys):
    assert run(arguments(*SMALL, "--deadline", "0.000001", "--only", "srd")) == 1
    assert "LEFT after 1e-06 s, srd, seed 1: 2 of 2 flows: h" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--senders 0", "--senders must be at least 1, got 0"),
        ("--rate 0", "--rate must be above 0"),
        ("--routing hope", "routing must be one of"),
        ("--buffer 100", "buffer"),
        ("--paths 300", "Config.paths must lie between 1 and 256"),
        ("--seed 1 --seeds 1-2", "not both"),
        ("--seed -1", "--seed must be 0 or more"),
        ("--seeds 5-1", "must ascend"),
        ("--seeds few", "no list of seeds"),
        ("--only quic", "one of srd, tcp-like"),
        ("--plot figure.gif", ".gif"),
    ],
)
def test_what_makes_no_sense_is_one_line_and_status_two(words, reason, capsys):
    assert run(arguments(*SMALL[:1], *words.split())) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert reason in captured.err
    assert len(captured.err.splitlines()) == 1


@pytest.mark.parametrize("words", [["incast", "--size", "huge"], ["incast", "--rate", "fast"]])
def test_what_is_no_number_is_wrong_usage(words, capsys):
    with pytest.raises(SystemExit) as end:
        arguments(*words)
    assert end.value.code == 2
    assert words[-1] in capsys.readouterr().err


def test_an_unknown_experiment_is_wrong_usage_and_the_known_ones_are_named(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["sim", "levitation"])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "levitation" in said
    for name in EXPERIMENTS:
        assert name in said


def test_a_file_that_cannot_be_written_is_an_error_of_one_line(tmp_path, capsys):
    assert run(arguments(*SMALL, "--only", "srd", "--json", str(tmp_path / "no" / "a.json"))) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_command_is_installed(capsys):
    assert cli.main(["sim", *SMALL, "--only", "srd"]) == 0
    assert "srd (ours)" in capsys.readouterr().out


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_help_of_its_own(name, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["sim", name, "--help"])
    assert end.value.code == 0
    assert "--seeds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("3", (3,)), ("1-5", (1, 2, 3, 4, 5)), ("7,1-2,1", (7, 1, 2)), (" 4 , 5 ", (4, 5))],
)
def test_seeds_parse(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "-1", "1-", "a", "1,,2", "0-1000", "1.5"])
def test_other_seeds_are_refused(text):
    with pytest.raises(BenchError):
        parse_seeds(text)
