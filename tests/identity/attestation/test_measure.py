"""The measure is the same wherever the files are the same, and another if one byte differs."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.source_tree import PACKAGE, PROJECT_ROOT
from transport.errors import UsageError
from transport.identity.attestation import Measurement, measure


def program(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        path = folder / (name.replace("__in__", "/") + ".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder / "main.py"


def register(text: str) -> bytes:
    """A register as the documentation describes it."""
    return hashlib.sha384(bytes(48) + hashlib.sha384(text.encode()).digest()).digest()


def names(measured: Measurement, kind: str) -> list[str]:
    lines = (*measured.platform, *measured.application)
    return [line.split(" ", 2)[-1] for line in lines if line.startswith(f"{kind} ")]


def test_the_registers_follow_from_the_manifest(tmp_path: Path) -> None:
    measured = measure(program(tmp_path, main="print(1)\n"))
    lines = measured.manifest.splitlines()
    assert lines[0] == "sealfabric measure 1"
    script = [line for line in lines if line.startswith("script ")]
    rest = [line for line in lines[1:] if not line.startswith("script ")]
    digest = hashlib.sha384(b"print(1)\n").hexdigest()
    assert script == [f"script {digest} main.py"]
    assert measured.pcr0 == register(measured.manifest)
    assert measured.pcr1 == register("\n".join([lines[0], *rest, ""]))
    assert measured.pcr2 == register("\n".join([lines[0], *script, ""]))
    assert measured.registers() == {0: measured.pcr0, 1: measured.pcr1, 2: measured.pcr2}


def test_the_whole_package_is_measured_and_nothing_that_changes_by_itself() -> None:
    measured = names(measure(), "package")
    shipped = {
        path.relative_to(PROJECT_ROOT / PACKAGE).as_posix()
        for path in (PROJECT_ROOT / PACKAGE).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert set(measured) == shipped
    assert {"__init__.py", "identity/attestation/nitro-root-g1.pem"} <= shipped
    assert measured == sorted(measured, key=os.fsencode)


def test_the_environment_is_measured_by_name_and_version() -> None:
    environment = names(measure(), "environment")
    assert any(each.startswith("cryptography==") for each in environment)
    assert environment == sorted(set(environment))


def test_the_same_program_measures_the_same_anywhere(tmp_path: Path) -> None:
    first = program(tmp_path / "a", main="import part\n", part="x = 1\n")
    second = tmp_path / "b" / "main.py"
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert measure(first) == measure(second)
    command = [sys.executable, "-m", PACKAGE, "attest", "measure", str(second)]
    printed = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    here = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(first)],
        cwd=PROJECT_ROOT,
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert here.strip() in printed


_MEASURE = """
import sys
from transport.identity.attestation import measure
print(measure(sys.argv[1]).pcr0.hex())
"""


def test_a_changed_script_changes_its_registers_and_not_the_platforms(tmp_path: Path) -> None:
    approved = measure(program(tmp_path / "a", main="print(1)\n"))
    changed = measure(program(tmp_path / "b", main="print(2)\n"))
    assert approved.pcr0 != changed.pcr0
    assert approved.pcr1 == changed.pcr1
    assert approved.pcr2 != changed.pcr2


def test_what_a_script_imports_from_its_folder_is_part_of_it(tmp_path: Path) -> None:
    files = {
        "main": "import part\nfrom pack import inner\nimport json, numpy\n",
        "part": "def f():\n    import later\n",
        "later": "",
        "pack__in____init__": "",
        "pack__in__inner": "",
        "unrelated": "",
    }
    script = program(tmp_path, **files)
    found = names(measure(script), "script")
    assert found == ["later.py", "main.py", "pack/__init__.py", "pack/inner.py", "part.py"]
    before = measure(script).pcr2
    (tmp_path / "later.py").write_text("x = 1\n", encoding="utf-8")
    assert measure(script).pcr2 != before
    now = measure(script).pcr2
    (tmp_path / "unrelated.py").write_text("x = 1\n", encoding="utf-8")
    assert measure(script).pcr2 == now


def test_nothing_is_run_while_it_is_measured(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    measure(program(tmp_path, main=f"open({str(canary)!r}, 'w')\n"))
    assert not canary.exists()


def test_of_a_folder_every_file_is_measured(tmp_path: Path) -> None:
    program(tmp_path, main="", sub__in__data="")
    (tmp_path / "weights.bin").write_bytes(b"\0")
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "main.cpython-311.pyc").write_bytes(b"\0")
    assert names(measure(tmp_path), "script") == ["main.py", "sub/data.py", "weights.bin"]


def test_a_script_may_be_reached_by_a_link(tmp_path: Path) -> None:
    script = program(tmp_path / "real", main="import part\n", part="")
    (tmp_path / "link.py").symlink_to(script)
    assert measure(tmp_path / "link.py") == measure(script)


def test_what_cannot_be_measured_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be measured"):
        measure(tmp_path / "absent.py")
    with pytest.raises(UsageError, match="not a Python program"):
        measure(program(tmp_path, main="def\n"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="nothing to measure"):
        measure(tmp_path / "empty")
    (tmp_path / "pipes").mkdir()
    os.mkfifo(tmp_path / "pipes" / "pipe")
    with pytest.raises(UsageError, match="not a regular file"):
        measure(tmp_path / "pipes")


def test_a_name_cannot_pass_for_a_line(tmp_path: Path) -> None:
    (tmp_path / "a\nscript 00 main.py").write_bytes(b"")
    with pytest.raises(UsageError, match="cannot be printed"):
        measure(tmp_path)
