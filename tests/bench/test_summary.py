"""The table for documents."""

from __future__ import annotations

from bench.machine import describe_machine
from bench.report import PeerNote, Report
from bench.summary import markdown, write_markdown
from bench.timing import Result, Run, Task

ONE_WAY = Result(
    task=Task(measurement="one-way", nbytes=2**20, unit="bytes/s", better="higher"),
    values={"sealfabric": (4e9,), "sealfabric-tcp": (1e9,), "gloo": (2e9,)},
)
HANDSHAKE = Result(
    task=Task(measurement="handshake", nbytes=0, unit="s", better="lower"),
    values={"sealfabric": (4e-3,)},
)
CIPHER = Result(
    task=Task(measurement="cipher", nbytes=2**20, unit="bytes/s", better="higher"),
    values={"aes-256-gcm": (4e9,)},
)
REPORT = Report(
    machine=describe_machine(),
    settings={},
    peers=(
        PeerNote(name="sealfabric", status="measured"),
        PeerNote(name="sealfabric-tcp", status="measured"),
        PeerNote(name="gloo", status="measured"),
        PeerNote(name="mpi-tcp", status="skipped", reason="openmpi is not installed"),
    ),
    run=Run(results=(ONE_WAY, HANDSHAKE, CIPHER)),
)


def test_ours_are_figures_and_the_others_ratios_bold_where_ours_is_ahead():
    assert markdown(REPORT).splitlines() == [
        "| | Sealfabric, sealed | Gloo, plaintext |",
        "|---|---|---|",
        "| 1 MiB one way, same host | 4 GB/s | **2.00 ×** |",  # noqa: RUF001
        "| handshake, both ends new (lower is better), same host | 4 ms | |",
        "| 1 MiB one way, TCP alone | 1 GB/s | 0.50 × |",  # noqa: RUF001
    ]


def test_it_is_written(tmp_path):
    path = tmp_path / "table.md"
    write_markdown(REPORT, path)
    assert path.read_text(encoding="utf-8") == markdown(REPORT) + "\n"
