"""The command: what it measures, prints, writes and returns."""

from __future__ import annotations

import argparse
import json

import pytest

from bench.p2p import add_arguments, run
from bench.report import SCHEMA


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


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
    path, table = tmp_path / "report.json", tmp_path / "report.md"
    words = (
        "--quick --rounds 2 --peers sealfabric-tcp,tls --only one-way,handshake,cipher "
        "--sizes 4KiB,9000 --deadline 20 --targets"
    )
    written = ("--json", str(path), "--markdown", str(table))
    assert run(arguments(*words.split(), *written)) == 0
    text = capsys.readouterr().out
    assert "one way, 4 KiB: " in text
    assert "one way, 9000 B: " in text
    assert "64 B round trip" in text
    assert "not measured" in text
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["schema"] == SCHEMA
    assert document["settings"]["rounds"] == 2
    assert {note["name"]: note["status"] for note in document["peers"]} == {
        "sealfabric-tcp": "measured",
        "tls": "measured",
    }
    assert all(note["version"] and note["about"] for note in document["peers"])
    one_way, other_size, handshake, cipher = document["results"]
    both = {"sealfabric-tcp", "tls"}
    assert set(one_way["peers"]) == set(other_size["peers"]) == set(handshake["peers"]) == both
    assert set(cipher["peers"]) == {"aes-256-gcm"}
    assert cipher["peers"]["aes-256-gcm"]["median"] > 1e7
    assert len(one_way["peers"]["tls"]["rounds"]) == 2
    assert one_way["peers"]["tls"]["median"] > 0
    assert set(one_way["ratios"]["sealfabric-tcp"]) == {"tls"}
    assert "| 4 KiB one way, TCP alone | " in table.read_text(encoding="utf-8")


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
