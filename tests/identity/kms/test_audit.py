"""The audit log: what was written cannot be changed, removed or cut off unnoticed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.kms import NOW
from support.source_tree import PROJECT_ROOT
from transport.errors import UsageError
from transport.identity.kms import audit
from transport.identity.kms.audit import AuditError, AuditLog, Head

STORE = b"store id of 16 B"
SECRET = bytes(range(32))
LINES = 6


def opened(path, *, create: bool = False) -> AuditLog:
    return AuditLog(path, store_id=STORE, key=SECRET, create=create)


def verified(path, **arguments):
    return audit.verify(path, store_id=STORE, key=SECRET, **arguments)


@pytest.fixture
def log(tmp_path):
    """A closed log with six lines."""
    path = tmp_path / "audit.log"
    written = opened(path, create=True)
    for number in range(LINES):
        written.append("event", {"place": number}, now=NOW + number)
    written.close()
    return path


def lines_of(path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def test_an_intact_log(log):
    report = verified(log)
    assert (report.fault, report.unfinished_bytes, report.head.number) == (None, 0, LINES)


def test_a_line_says_what_happened_and_is_chained(log):
    before = audit.genesis(STORE).hex()
    for number, line in enumerate(lines_of(log), start=1):
        digest, _, text = line.rstrip(b"\n").partition(b" ")
        record = json.loads(text)
        assert record["number"] == number
        assert record["at"] == NOW + number - 1
        assert record["place"] == number - 1
        before = sha256(bytes.fromhex(before) + text).hexdigest()
        assert digest.decode() == before


@pytest.mark.parametrize("number", range(LINES))
def test_a_removed_line_is_detected(log, number):
    lines = lines_of(log)
    del lines[number]
    log.write_bytes(b"".join(lines))
    report = verified(log)
    assert report.fault is not None
    assert f"line {number + 1}" in report.fault
    with pytest.raises(AuditError):
        opened(log)


@pytest.mark.parametrize("number", range(LINES))
def test_a_changed_line_is_detected(log, number):
    lines = lines_of(log)
    lines[number] = lines[number].replace(b'"place":', b'"plaxe":')
    log.write_bytes(b"".join(lines))
    assert f"line {number + 1}" in (verified(log).fault or "")
    with pytest.raises(AuditError):
        opened(log)


def test_exchanged_lines_are_detected(log):
    lines = lines_of(log)
    lines[2], lines[3] = lines[3], lines[2]
    log.write_bytes(b"".join(lines))
    assert "line 3" in (verified(log).fault or "")


def test_a_line_put_in_is_detected(log):
    lines = lines_of(log)
    log.write_bytes(b"".join([*lines[:3], lines[1], *lines[3:]]))
    assert "line 4" in (verified(log).fault or "")


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_every_flipped_bit_is_detected(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("flip") / "audit.log"
    written = opened(path, create=True)
    for number in range(3):
        written.append("event", {"place": number}, now=NOW)
    written.close()
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    assert verified(path).fault is not None
    with pytest.raises(AuditError):
        opened(path)
    assert path.read_bytes() == content, "what shows the change stays"


def rewritten(path, lines: list[bytes]) -> None:
    """Write a chain of other lines, as anyone can who knows the format."""
    digest, content = audit.genesis(STORE).hex(), b""
    for line in lines:
        digest = sha256(bytes.fromhex(digest) + line).hexdigest()
        content += digest.encode() + b" " + line + b"\n"
    path.write_bytes(content)


def test_a_chain_that_was_written_anew_is_detected_by_the_head(log):
    texts = [line.partition(b" ")[2].rstrip(b"\n") for line in lines_of(log)]
    texts[2] = texts[2].replace(b'"place":2', b'"place":9')
    rewritten(log, texts)
    assert audit.verify(log, store_id=STORE).fault is None, "the chain alone cannot tell"
    assert verified(log).fault is not None


def test_a_head_without_the_key_is_not_believed(log):
    rewritten(log, [b'{"number":1}'])
    head = verified_head(log)
    audit.head_path(log).write_bytes(audit.sealed_head(head, bytes(32)))
    assert "not written with this key" in (verified(log).fault or "")


def verified_head(path) -> Head:
    return audit.verify(path, store_id=STORE).head


def test_a_line_noted_earlier_must_still_be_there(log):
    noted = verified(log).head
    assert verified(log, expected=noted).fault is None
    lines = lines_of(log)
    log.write_bytes(b"".join(lines[:-1]))
    without_secret = audit.verify(log, store_id=STORE, expected=noted)
    assert f"line {LINES}: missing" in (without_secret.fault or "")


def test_a_head_is_noted_as_text(log):
    head = verified(log).head
    assert Head.parse(str(head)) == head
    for text in ("", "3", "3:", f"x:{head.digest}", "3:abc", f"3:{head.digest.upper()}"):
        with pytest.raises(UsageError):
            Head.parse(text)


def test_a_log_of_another_store_does_not_fit(log):
    assert audit.verify(log, store_id=b"another store").fault is not None
    with pytest.raises(AuditError):
        AuditLog(log, store_id=b"another store", key=SECRET)


@pytest.mark.parametrize("missing", ["log", "head"])
def test_a_missing_file_is_not_begun_anew(log, missing):
    (log if missing == "log" else audit.head_path(log)).unlink()
    with pytest.raises(UsageError, match="cannot be opened"):
        opened(log)


def test_an_existing_log_is_not_begun_anew(log):
    with pytest.raises(UsageError, match="exists already"):
        opened(log, create=True)
    assert verified(log).fault is None


def test_a_log_that_others_may_read_is_refused(log):
    log.chmod(0o640)
    with pytest.raises(UsageError, match="mode 0640"):
        opened(log)


def test_two_writers_make_one_chain(tmp_path):
    path = tmp_path / "audit.log"
    first = opened(path, create=True)
    second = opened(path)
    for number in range(4):
        (first if number % 2 else second).append("event", {"place": number}, now=NOW)
    first.close()
    second.close()
    report = verified(path)
    assert (report.fault, report.head.number) == (None, 4)


def test_what_becomes_shorter_under_a_writer_is_noticed(tmp_path):
    path = tmp_path / "audit.log"
    log = opened(path, create=True)
    log.append("event", {}, now=NOW)
    os.truncate(path, 0)
    with pytest.raises(AuditError, match="shorter"):
        log.append("event", {}, now=NOW)
    log.close()


@pytest.mark.parametrize("kept", [1, 40, 70])
def test_a_line_that_a_crash_left_is_cut_off_and_recorded(log, kept):
    whole = log.read_bytes()
    last = lines_of(log)[-1]
    with log.open("ab") as file:
        file.write(last[:kept])
    report = verified(log)
    assert (report.fault, report.unfinished_bytes) == (None, kept)
    recovered = opened(log)
    recovered.append("after", {}, now=NOW)
    recovered.close()
    assert log.read_bytes().startswith(whole)
    events = [json.loads(line.partition(b" ")[2])["event"] for line in lines_of(log)]
    assert events[LINES:] == ["recovered", "after"]
    assert verified(log).fault is None


def test_a_line_that_is_too_long_is_refused_and_nothing_written(tmp_path):
    path = tmp_path / "audit.log"
    log = opened(path, create=True)
    with pytest.raises(AuditError, match="more than"):
        log.append("event", {"text": "x" * audit.LINE_LIMIT}, now=NOW)
    log.append("event", {}, now=NOW)
    log.close()
    assert verified(path).head.number == 1


def test_after_a_failed_sync_nothing_more_is_accepted(tmp_path, monkeypatch):
    path = tmp_path / "audit.log"
    log = opened(path, create=True)
    log.append("event", {}, now=NOW)

    def refuse(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(audit.os, "fdatasync", refuse)
        with pytest.raises(AuditError, match="Input/output error"):
            log.sync()
    # The next sync would succeed, whatever the disk lost.
    for again in (log.sync, lambda: log.append("event", {}, now=NOW)):
        with pytest.raises(AuditError, match="open it anew"):
            again()


WRITER = """
import sys
from transport.identity.kms.audit import AuditLog
log = AuditLog(sys.argv[1], store_id=b"store id of 16 B", key=bytes(range(32)))
for number in range(int(sys.argv[2])):
    log.append("event", {"writer": sys.argv[3], "place": number}, now=1.0)
    log.sync()
log.close()
"""


def test_processes_that_write_at_once_make_one_chain(tmp_path):
    path = tmp_path / "audit.log"
    opened(path, create=True).close()
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), "40", name],
            env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
        )
        for name in "abc"
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    report = verified(path)
    assert (report.fault, report.head.number) == (None, 120)
