"""The table and the JSON document."""

from __future__ import annotations

import json

import pytest

from bench.machine import Machine
from bench.report import SCHEMA, PeerNote, Report, render, render_result, to_json, write_json
from bench.timing import Result, Run, Task

MACHINE = Machine(
    date="2026-01-02T03:04:05+00:00",
    cpu="A Processor",
    cores=2,
    memory=2**34,
    system="Linux 6.1 x86_64",
    load=0.25,
    python="3.11.7",
    openssl="OpenSSL 3.0",
    versions={"numpy": "2.0"},
)
ONE_WAY = Result(
    task=Task(measurement="one-way", nbytes=2**20, unit="bytes/s", better="higher"),
    values={"sealfabric": (3e9, 4e9, 5e9), "pyzmq": (4e9, 4e9, 4e9)},
)
ROUND_TRIP = Result(
    task=Task(measurement="round-trip", nbytes=64, unit="s", better="lower"),
    values={"pyzmq": (80e-6, 90e-6, 70e-6), "sealfabric": (2e-3, 2e-3, 2e-3)},
    p99={"pyzmq": (300e-6, 500e-6, 400e-6)},
)
ALONE = Result(
    task=Task(measurement="cipher", nbytes=2**20, unit="bytes/s", better="higher"),
    values={"aes-256-gcm": (10e9,)},
)


@pytest.fixture
def report():
    return Report(
        machine=MACHINE,
        settings={"rounds": 3},
        peers=(
            PeerNote(name="sealfabric", status="measured", version="sealfabric 1", about="sealed"),
            PeerNote(name="pyzmq", status="measured", version="pyzmq 27", about="plain"),
            PeerNote(name="gloo", status="skipped", reason="torch is not installed"),
            PeerNote(name="tls", status="failed", reason="first line\nsecond line"),
        ),
        run=Run(results=(ONE_WAY, ROUND_TRIP)),
        rss={
            "peer": "sealfabric",
            "nbytes": 2**30,
            "seconds": 0.5,
            "sender": {"idle": 2**26, "with_tensor": 2**30 + 2**26, "peak": 2**30 + 2**27},
            "receiver": {"idle": 2**26, "with_tensor": 2**30 + 2**26, "peak": 2**30 + 2**26},
        },
        import_time={
            "rounds": 3,
            "statements": {
                "import transport": {"median": 0.1, "min": 0.09, "max": 0.2},
                "import numpy": {"median": 0.08, "min": 0.07, "max": 0.1},
            },
            "ratio": {"median": 1.25, "min": 1.2, "max": 1.3},
            "ratio_in_use": {"median": 1.75, "min": 1.5, "max": 2.0},
        },
    )


def test_a_table_has_units_direction_medians_and_ratios_to_each_of_ours():
    both = Result(task=ONE_WAY.task, values={**ONE_WAY.values, "sealfabric-tcp": (1e9, 2e9, 3e9)})
    lines = [line.split() for line in render_result(both).splitlines()]
    assert " ".join(lines[0]) == "one way, 1 MiB: GB/s, higher is better"
    assert lines[2] == ["sealfabric", "4.00", "3.00", "5.00", "–", "0.50"]  # noqa: RUF001
    assert lines[3] == ["pyzmq", "4.00", "4.00", "4.00", "1.00", "0.50"]
    assert lines[4] == ["sealfabric-tcp", "2.00", "1.00", "3.00", "2.00", "–"]  # noqa: RUF001


def test_a_latency_has_its_tail_and_the_unit_of_the_quickest():
    lines = render_result(ROUND_TRIP).splitlines()
    assert lines[0] == "round trip, 64 B: µs, lower is better"
    assert lines[1].split()[:5] == ["peer", "median", "min", "max", "p99"]
    assert lines[2].split() == ["pyzmq", "80.00", "70.00", "90.00", "400.00", "25.00"]
    ours = ["sealfabric", "2000.00", "2000.00", "2000.00", "–", "–"]  # noqa: RUF001
    assert lines[3].split() == ours


def test_a_table_of_one_has_no_ratios():
    assert render_result(ALONE).splitlines() == [
        "AES-256-GCM on one core, 1 MiB: GB/s, higher is better",
        "  peer         median    min    max",
        "  aes-256-gcm   10.00  10.00  10.00",
    ]


def test_the_text_says_who_was_skipped_and_who_failed(report):
    text = render(report)
    assert text.startswith(MACHINE.line())
    assert "gloo: SKIPPED, torch is not installed" in text
    assert "tls: FAILED, first line\n      second line" in text
    assert "Medians over 3 rounds" in text


def test_memory_and_import_time_are_in_the_text(report):
    text = render(report)
    assert "one message of 1 GiB with sealfabric, 0.50 s: MiB" in text
    assert ["sender", "128.0", "64.0", "64.0"] in [line.split() for line in text.splitlines()]
    assert "median of 3 rounds: 1.25" in text


def test_the_document_holds_every_round_in_base_units(report):
    document = to_json(report)
    assert document["schema"] == SCHEMA
    assert document["machine"]["cpu"] == "A Processor"
    assert [note["status"] for note in document["peers"]] == [
        "measured",
        "measured",
        "skipped",
        "failed",
    ]
    one_way, round_trip = document["results"]
    assert one_way == {
        "measurement": "one-way",
        "nbytes": 2**20,
        "unit": "bytes/s",
        "better": "higher",
        "peers": {
            "sealfabric": {"rounds": [3e9, 4e9, 5e9], "median": 4e9, "min": 3e9, "max": 5e9},
            "pyzmq": {"rounds": [4e9, 4e9, 4e9], "median": 4e9, "min": 4e9, "max": 4e9},
        },
        "ratios": {"sealfabric": {"pyzmq": {"median": 1.0, "min": 0.75, "max": 1.25}}},
    }
    assert round_trip["peers"]["pyzmq"]["p99"] == [300e-6, 500e-6, 400e-6]
    assert "p99" not in round_trip["peers"]["sealfabric"]
    assert document["rss"]["nbytes"] == 2**30
    assert document["import_time"]["ratio"]["median"] == 1.25


def test_the_document_is_written_as_json(report, tmp_path):
    path = tmp_path / "report.json"
    write_json(report, path)
    assert json.loads(path.read_text(encoding="utf-8")) == to_json(report)


def test_what_was_not_measured_is_not_in_the_document():
    document = to_json(Report(machine=MACHINE, settings={}))
    assert "rss" not in document
    assert "import_time" not in document
    assert document["results"] == []
