"""The command: what it measures, prints, writes and returns."""

from __future__ import annotations

import argparse
import json

import pytest

from bench.p2p import FULL, MEASUREMENTS, QUICK, add_arguments, measure, run, tasks_for
from bench.report import SCHEMA
from bench.timing import Task


class ScriptedPeer:
    """A peer whose times are written down, for the arithmetic around them."""

    def one_way(self, nbytes, repeat, *, batch=1):
        assert nbytes * batch <= max(nbytes, 32 * 2**20)
        return [2.0, 4.0, 100.0][:repeat]

    def round_trip(self, nbytes, count):
        return [1.0, 2.0, 30.0]

    def message_rate(self, nbytes, count):
        return 5.0

    def handshake(self, count):
        return [7.0, 8.0, 90.0]


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


def test_a_full_run_has_every_measurement():
    tasks = tasks_for(FULL, MEASUREMENTS)
    assert [(task.measurement, task.nbytes) for task in tasks] == [
        ("one-way", 65536),
        ("one-way", 2**20),
        ("one-way", 2**28),
        ("round-trip", 64),
        ("round-trip", 65536),
        ("rate", 64),
        ("handshake", 0),
    ]
    assert {task.better for task in tasks if task.unit == "s"} == {"lower"}


@pytest.mark.parametrize(
    ("measurement", "unit", "value"),
    [
        ("one-way", "bytes/s", 64 / 4.0),
        ("round-trip", "s", 2.0),
        ("rate", "messages/s", 5.0),
        ("handshake", "s", 8.0),
    ],
)
def test_the_value_of_a_round_is_the_median_of_its_samples(measurement, unit, value):
    task = Task(measurement=measurement, nbytes=64, unit=unit, better="lower")
    assert measure(ScriptedPeer(), task, FULL) == value


def test_quick_is_less_than_full():
    assert QUICK.rounds < FULL.rounds
    assert max(QUICK.sizes) < max(FULL.sizes)


@pytest.mark.parametrize(
    "words",
    [
        ("--rounds", "0"),
        ("--sizes", "many"),
        ("--only", "jitter"),
        ("--peers", "pigeon"),
        ("--peers", ","),
        ("--plot", "figure.gif"),
        ("--rss-size", "lots"),
    ],
)
def test_senseless_arguments_are_refused_before_anything_runs(words, capsys):
    assert run(arguments(*words)) == 2
    assert words[1] in capsys.readouterr().err


def test_a_small_real_run_prints_and_writes(tmp_path, capsys):
    path = tmp_path / "report.json"
    words = "--quick --rounds 2 --peers pyzmq,tls --only one-way,handshake --sizes 4KiB,9000"
    assert run(arguments(*words.split(), "--deadline", "20", "--json", str(path))) == 0
    text = capsys.readouterr().out
    assert "one way, 4 KiB: GB/s, higher is better" in text
    assert "one way, 9000 B: GB/s, higher is better" in text
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["schema"] == SCHEMA
    assert document["settings"]["rounds"] == 2
    assert {note["name"]: note["status"] for note in document["peers"]} == {
        "pyzmq": "measured",
        "tls": "measured",
    }
    assert all(note["version"] and note["about"] for note in document["peers"])
    one_way, other_size, handshake = document["results"]
    assert set(one_way["peers"]) == set(other_size["peers"]) == {"pyzmq", "tls"}
    assert set(handshake["peers"]) == {"tls"}
    assert len(one_way["peers"]["tls"]["rounds"]) == 2
    assert one_way["peers"]["tls"]["median"] > 0


def test_memory_alone_runs_no_peers(monkeypatch, capsys):
    monkeypatch.setattr("bench.p2p.measure_peers", pytest.fail)
    seen = {}

    def measured(nbytes, *, deadline):
        seen["nbytes"] = nbytes
        own = {"idle": 1, "with_tensor": nbytes, "peak": nbytes}
        return {"peer": "x", "nbytes": nbytes, "seconds": 1.0, "sender": own, "receiver": own}

    monkeypatch.setattr("bench.p2p.measure_rss", measured)
    assert run(arguments("--rss", "--rss-size", "1MiB")) == 0
    assert seen["nbytes"] == 2**20
    assert "resident memory, one message of 1 MiB" in capsys.readouterr().out
