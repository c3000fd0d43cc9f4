"""`bench collectives`: real ranks of every library, what is printed, and what is written."""

from __future__ import annotations

import argparse
import json

import pytest

from bench.collectives import add_arguments, run
from bench.collectives_report import SCHEMA, Line, Report, markdown, render
from bench.errors import BenchError
from bench.machine import describe_machine
from bench.peers import missing
from bench.rank_worker import OPERATIONS
from bench.ranks import PEERS
from bench.report import PeerNote
from bench.timing import Result, Task


def arguments(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


def line(ranks=2, operation="all_reduce", nbytes=4096, wrong=0, **seconds):
    task = Task(measurement=operation, nbytes=nbytes, unit="s", better="lower")
    values = {name.replace("_", "-"): each for name, each in seconds.items()}
    return Line(
        ranks=ranks, result=Result(task=task, values=values), wrong=dict.fromkeys(values, wrong)
    )


def report(*lines, notes=()):
    made = Report(machine=describe_machine(), rounds=2)
    made.add(2, lines, notes)
    return made


def test_ours_are_times_and_the_others_say_how_many_times_as_fast_ours_is():
    shown = markdown(
        report(
            line(nbytes=4096, sealfabric=(1e-3,), sealfabric_tcp=(4e-3,), gloo=(2e-3,)),
            line(nbytes=2**20, sealfabric=(5e-3,), gloo=(4e-3,)),
        )
    )
    assert shown.splitlines() == [
        "| 2 ranks | Sealfabric, sealed | Gloo, plaintext |",
        "|---|---|---|",
        "| all_reduce of 4 KiB, same host | 1 ms | **2.00 ×** |",  # noqa: RUF001
        "| all_reduce of 1 MiB, same host | 5 ms | 0.80 × |",  # noqa: RUF001
        "| all_reduce of 4 KiB, TCP alone | 4 ms | 0.50 × |",  # noqa: RUF001
    ]


def test_every_operation_of_every_library_is_right_and_reported(tmp_path, capsys):
    target, picture = tmp_path / "collectives.json", tmp_path / "collectives.svg"
    # Large, hence few repetitions; torch takes seconds to start, so one of its own is enough.
    names = [name for name in PEERS if name != "torch-sealed-tcp"]
    words = f"--ranks 2 --sizes 12000000 --rounds 1 --targets --peers {','.join(names)}"
    only = ("--only", ",".join(OPERATIONS))
    written = (
        "--json",
        str(target),
        "--plot",
        str(picture),
        "--markdown",
        str(tmp_path / "targets.md"),
    )
    assert run(arguments(*words.split(), *only, *written)) == 0
    printed = capsys.readouterr().out
    assert "#wrong" in printed
    assert "all_reduce of 64 B, torch-sealed by gloo" in printed
    written_down = (tmp_path / "targets.md").read_text(encoding="utf-8")
    assert written_down.startswith("| 2 ranks | Sealfabric, sealed |")
    assert "\n\n| target |" in written_down
    document = json.loads(target.read_text(encoding="utf-8"))
    assert document["schema"] == SCHEMA
    present = [name for name in names if missing(name) is None]
    assert [(each["operation"], each["peer"]) for each in document["results"]] == [
        (operation, name) for operation in OPERATIONS for name in present
    ]
    for each in document["results"]:
        assert f"{each['operation']} " in printed
        assert each["wrong"] == 0
        assert each["seconds"][0] > 0
        assert each["speedup"].get(each["peer"]) is None
    for name in set(names) - set(present):
        assert f"{name}: SKIPPED" in printed
    assert picture.stat().st_size > 0


def test_wrong_elements_are_shown_and_make_the_report_flawed():
    flawed = report(line(sealfabric=(1e-3, 1e-3), wrong=3))
    columns = render(flawed).splitlines()[-1].split()
    assert columns[:4] == ["all_reduce", "sealfabric", "4096", "1024"]
    assert columns[-1] == "3"
    assert flawed.is_flawed
    assert not report(line(sealfabric=(1e-3,))).is_flawed


def test_a_peer_that_failed_is_named_and_makes_the_report_flawed():
    failed = report(notes=(PeerNote(name="gloo", status="failed", reason="cable cut"),))
    assert failed.is_flawed
    assert "gloo: FAILED, cable cut" in render(failed)


def test_ratios_are_times_of_the_same_round():
    row = line(sealfabric=(1.0, 2.0), sealfabric_tcp=(2.0, 4.0), gloo=(3.0, 6.0))
    assert row.speedup("sealfabric", "gloo") == 3.0
    assert row.speedup("sealfabric", "sealfabric") is None
    assert render(report(row)).splitlines()[-1].split()[-2:] == ["3.00", "1.50"]


@pytest.mark.parametrize(
    ("operation", "ranks", "factor"),
    [
        ("all_reduce", 2, 1.0),
        ("all_reduce", 4, 1.5),
        ("all_gather", 4, 0.75),
        ("reduce_scatter", 2, 0.5),
        ("broadcast", 4, 1.0),
    ],
)
def test_bus_bandwidth_is_that_of_nccl_tests(operation, ranks, factor):
    row = line(ranks=ranks, operation=operation)
    assert row.bus_factor == factor
    assert row.busbw(10**9, 0.5) == 2 * factor


@pytest.mark.parametrize(
    "words",
    [
        ("--peers", "nobody"),
        ("--peers", "pyzmq"),
        ("--only", "sort"),
        ("--rounds", "0"),
        ("--ranks", "two"),
        ("--plot", "figure.gif"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(words):
    with pytest.raises(BenchError):
        run(arguments(*words))
