"""The doctor reads facts as they are, says what it does not know, and gives hints."""

from __future__ import annotations

import dataclasses
import json
import os

import pytest

from transport.cli import main
from transport.cli.doctor import INSTRUCTIONS, Facts, Rates, examine, hints, read_cpu, render

MIB = 1024 * 1024
GOOD_FACTS = Facts(
    system="Linux 6.1 x86_64",
    cpu="A Processor",
    cores=8,
    instructions=dict.fromkeys(INSTRUCTIONS, True),
    versions={"sealfabric": "1", "Python": "3.11.7", "OpenSSL": "4.0.3"},
    open_files=65536,
    receive_buffer_limit=4 * MIB,
    send_buffer_limit=8 * MIB,
    no_shared_memory=None,
)
GOOD_RATES = Rates(
    seal_1_mib=15e9,
    seal_64_bytes_seconds=0.85e-6,
    copy=12e9,
    loopback=4e9,
    loopback_round_trip_seconds=70e-6,
)


def test_a_good_machine_gets_no_hint():
    assert hints(GOOD_FACTS, GOOD_RATES) == []
    assert "nothing holds this machine back" in render(GOOD_FACTS, GOOD_RATES, [])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"open_files": 256}, "ulimit -n is 256: raise it for more than about 12 links"),
        ({"open_files": 10}, "more than about 0 links"),
        ({"receive_buffer_limit": 212992}, "net.core.rmem_max is 208 KiB"),
        ({"send_buffer_limit": 212992}, "sysctl -w net.core.wmem_max=4194304"),
        ({"no_shared_memory": "not permitted"}, "no shared memory (not permitted)"),
        ({"cores": 1}, "one core only"),
        ({"instructions": {**GOOD_FACTS.instructions, "AES": False}}, "no AES instructions"),
    ],
)
def test_each_weakness_of_the_machine_has_one_hint(change, expected):
    found = hints(dataclasses.replace(GOOD_FACTS, **change), GOOD_RATES)
    assert len(found) == 1
    assert expected in found[0]


def test_slow_sealing_has_a_hint():
    found = hints(GOOD_FACTS, dataclasses.replace(GOOD_RATES, seal_1_mib=0.4e9))
    assert len(found) == 1
    assert "seals only 0.4 GB/s" in found[0]


def test_what_is_unknown_is_said_and_gets_no_hint():
    unknown = dataclasses.replace(
        GOOD_FACTS,
        cpu=None,
        instructions=dict.fromkeys(INSTRUCTIONS),
        open_files=None,
        receive_buffer_limit=None,
        send_buffer_limit=None,
    )
    assert hints(unknown, GOOD_RATES) == []
    text = render(unknown, GOOD_RATES, [])
    assert "AES unknown" in text
    assert "unlimited (ulimit -n)" in text
    assert "receive up to unknown" in text


def test_instructions_are_read_on_x86_and_arm(tmp_path):
    intel, arm = tmp_path / "intel", tmp_path / "arm"
    intel.write_text("model name\t: Some CPU\nflags\t\t: fpu aes pclmulqdq vaes\n" * 2)
    arm.write_text("processor\t: 0\nFeatures\t: fp asimd aes pmull\n")
    assert read_cpu(intel) == (
        "Some CPU",
        {"AES": True, "PCLMUL": True, "VAES": True, "VPCLMUL": False, "AVX-512": False},
    )
    assert read_cpu(arm)[1]["AES"] is True
    assert read_cpu(arm)[1]["PCLMUL"] is True
    assert read_cpu(tmp_path / "absent") == (None, dict.fromkeys(INSTRUCTIONS))


def test_a_system_without_proc_is_examined_all_the_same(tmp_path):
    facts = examine(tmp_path)
    assert facts.cpu is None
    assert facts.receive_buffer_limit is None
    assert facts.cores >= 1
    assert {"Python", "cryptography", "OpenSSL", "pyzmq", "libzmq", "numpy"} <= set(facts.versions)


def test_the_report_stays_within_a_hundred_columns():
    long = dataclasses.replace(
        GOOD_FACTS,
        cpu="A Very Long Processor Name " * 5,
        versions={f"library-{number}": "1.2.3.dev4" for number in range(12)},
    )
    text = render(long, GOOD_RATES, ["a hint that goes on and on " * 8])
    assert max(map(len, text.splitlines())) <= 100


def test_the_command_measures_and_prints_json(capsys):
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert all(rate > 0 for rate in report["rates"].values())
    assert report["cores"] >= 1
    assert isinstance(report["hints"], list)


def test_the_command_prints_text(capsys):
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "AES-256-GCM, one core" in printed
    assert "GB/s" in printed


def test_it_tries_the_memory_that_links_would_use(monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    assert examine().no_shared_memory is None
    monkeypatch.setattr(os, "memfd_create", refuse)
    assert "Operation not permitted" in examine().no_shared_memory
