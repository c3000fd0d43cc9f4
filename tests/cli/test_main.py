"""The command's entrance: help, version, exit statuses, and nothing imported early."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import transport
from transport import cli
from transport.errors import UsageError

ROOT = Path(__file__).parents[2]


def run_python(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, env=environment
    )


def test_help_names_every_command():
    done = run_python("-m", "transport", "--help")
    assert done.returncode == 0
    assert done.stderr == ""
    for command in ("demo", "bench", "sim", "keygen", "doctor"):
        assert command in done.stdout


def test_help_imports_no_command():
    script = (
        "import sys, transport.cli\n"
        "try: transport.cli.main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print(sorted(m for m in sys.modules if m.startswith('transport.cli.')))\n"
    )
    assert run_python("-c", script).stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", ["demo", "bench", "sim", "keygen", "doctor"])
def test_each_command_has_help_of_its_own(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    assert end.value.code == 0
    assert f"sealfabric {command}" in capsys.readouterr().out


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out.strip() == f"sealfabric {transport.__version__}"


@pytest.mark.parametrize(
    "arguments", [["nosuch"], ["keygen"], ["doctor", "--nosuch"], ["--nosuch"]]
)
def test_wrong_usage_ends_with_status_two(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert "usage: sealfabric" in capsys.readouterr().err


def test_no_command_shows_the_help_and_is_wrong_usage(capsys):
    assert cli.main([]) == 2
    assert "keygen" in capsys.readouterr().err


def test_an_error_of_this_package_is_one_line_and_status_one(tmp_path, capsys):
    existing = tmp_path / "node.identity"
    existing.write_text("kept")
    assert cli.main(["keygen", str(existing)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (f"sealfabric keygen: {existing} exists already; it was left as it is\n")
    assert existing.read_text() == "kept"


def test_an_interrupt_ends_with_the_status_that_shells_expect(monkeypatch, capsys):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("transport.cli.doctor.run", interrupted)
    assert cli.main(["doctor"]) == 130
    assert capsys.readouterr().err == "sealfabric doctor: interrupted\n"


def test_benchmarks_run_as_a_command(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", "p2p", "--help"])
    assert end.value.code == 0
    assert "--rounds" in capsys.readouterr().out


def test_absent_benchmarks_are_an_error_of_one_line(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["bench", "p2p"]) == 1
    assert capsys.readouterr().err == (
        "sealfabric bench: the benchmarks are not installed with this package\n"
    )


def test_a_reader_that_goes_away_is_no_traceback():
    script = (
        "import sys, transport.cli.doctor as doctor, transport.cli\n"
        "doctor.run = lambda arguments: print('x' * 10_000_000) or 0\n"
        "sys.exit(transport.cli.main(['doctor']))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout.read(1) == "x"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 1


def test_messages_of_several_lines_become_one(monkeypatch, capsys):
    def fails(arguments):
        raise UsageError("first\n  second")

    monkeypatch.setattr("transport.cli.doctor.run", fails)
    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr().err == "sealfabric doctor: first second\n"
