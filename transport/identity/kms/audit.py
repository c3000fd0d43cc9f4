"""The audit log: one line for each thing asked of a key service, each bound to those before it.

A line is a SHA-256 in hex, a space, and a JSON object. The hash covers the hash of the
line before and the JSON as it stands, so a line that is changed, removed or moved breaks
the chain. What a chain alone cannot show is a missing end, so beside the log lies its
*head*: number and hash of the last line, under a MAC that takes the store's secret.
Whoever can write both files and keeps old copies of both can still put the copies back;
`AuditReport.head` is there to be noted elsewhere.

Invariants:

- Lines are appended and synced before what they record takes effect.
- Several processes may append: each holds the file's lock and reads what others added.
- A line that a crash left unfinished was never acknowledged. It is cut off, and the
  next line records that.

One thread at a time may use an `AuditLog`.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...errors import TransportError, UsageError
from ..keys import StrPath
from .files import open_private, write_new_private

LINE_LIMIT: Final = 64 * 1024  # bytes of one line
_GENESIS_LABEL: Final = b"sealfabric 1 audit log"
_HEAD_LABEL: Final = b"sealfabric 1 audit head"
_HASH_DIGITS: Final = 64
_HEAD_LINE: Final = 20 + 1 + _HASH_DIGITS + 1 + _HASH_DIGITS + 1
_PIECE: Final = 1 << 20

AuditValue = str | int | float | bool | None | Mapping[str, str]


class AuditError(TransportError):
    """The audit log cannot be written or is not intact; nothing was released."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The last line of a log: its number, counted from 1, and its hash in hex. 0: no line."""

    number: int
    digest: str

    def __str__(self) -> str:
        return f"{self.number}:{self.digest}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """Return the head that `str()` wrote.

        Raises:
            UsageError: `text` is not one.
        """
        number, colon, digest = text.partition(":")
        if not (colon and number.isascii() and number.isdecimal() and _is_digest(digest)):
            raise UsageError(f"a head is NUMBER:SHA256, got {text!r:.90}")
        return cls(number=int(number), digest=digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """What `verify` found."""

    head: Head
    """Of the intact part."""
    fault: str | None
    """What is wrong first, with its line; None where everything agrees."""
    unfinished_bytes: int
    """Of a last line that a crash left; nothing that it would record took effect."""


class AuditLog:
    """Appends to the log at `path`; with `create`, to a new one of mode 0600.

    `store_id` begins the chain and `key` (32 bytes) authenticates the head; both come
    from the key store, so a log of another store does not fit. A log that is missing is
    not begun anew unless `create` says so: it may have been removed.

    Raises:
        UsageError: the files cannot be used, others may access them, or they exist
            and are to be created.
        AuditError: what is there already is not intact.
    """

    def __init__(self, path: StrPath, *, store_id: bytes, key: bytes, create: bool = False) -> None:
        self._path = Path(path)
        self._key = key
        self._head = Head(number=0, digest=genesis(store_id).hex())
        self._read = 0
        self._unsynced = False
        self._failed = False
        if create:
            write_new_private(head_path(self._path), sealed_head(self._head, key))
            write_new_private(self._path, b"")
        self._log = open_private(self._path, os.O_RDWR | os.O_APPEND)
        try:
            self._head_file = open_private(head_path(self._path), os.O_RDWR)
        except BaseException:
            os.close(self._log)
            raise
        self._cut_off = 0
        try:
            with self._locked():
                self._catch_up()
                self._check_head()
        except BaseException:
            os.close(self._log)
            os.close(self._head_file)
            raise

    @property
    def head(self) -> Head:
        """The last line that this object has seen."""
        return self._head

    def append(self, event: str, fields: Mapping[str, AuditValue], *, now: float) -> None:
        """Add a line. It is durable only after `sync`.

        Raises:
            AuditError: it cannot be written, or the log was tampered with meanwhile.
        """
        self._check_disk()
        with self._locked():
            self._catch_up()
            if self._cut_off:
                cut_off, self._cut_off = self._cut_off, 0
                self._write("recovered", {"unfinished_bytes": cut_off}, now)
            self._write(event, fields, now)
            self._write_head()
            self._unsynced = True

    def sync(self) -> None:
        """Make every line so far durable.

        Raises:
            AuditError: the disk refused. What it lost then nobody can tell, so nothing
                more is accepted until the log is opened anew.
        """
        self._check_disk()
        if not self._unsynced:
            return
        try:
            os.fdatasync(self._log)
        except OSError as error:
            self._failed = True
            raise AuditError(f"{self._path} cannot be synced: {error.strerror}") from error
        self._unsynced = False

    def _check_disk(self) -> None:
        if self._failed:
            raise AuditError(f"{self._path} could not be synced before; open it anew")

    def close(self) -> None:
        """Sync and close both files; after a failed sync, which was told, only close them."""
        try:
            if not self._failed:
                self.sync()
                os.fsync(self._head_file)
        finally:
            os.close(self._log)
            os.close(self._head_file)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._log, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._log, fcntl.LOCK_UN)

    def _catch_up(self) -> None:
        """Follow the lines that were added meanwhile; cut off an unfinished one."""
        size = os.fstat(self._log).st_size
        if size == self._read:
            return
        if size < self._read:
            raise AuditError(f"{self._path} became shorter, from {self._read} to {size} bytes")
        report, intact = follow(self._log, self._read, self._head)
        if report.fault is not None:
            raise AuditError(f"{self._path}: {report.fault}")
        self._head, self._read = report.head, intact
        if report.unfinished_bytes:
            # Not before the head agrees: a finished line whose end was changed is evidence.
            self._check_head()
            os.ftruncate(self._log, intact)
            self._cut_off += report.unfinished_bytes

    def _write(self, event: str, fields: Mapping[str, AuditValue], now: float) -> None:
        number = self._head.number + 1
        record = {"number": number, "at": round(now, 3), "event": event, **fields}
        text = json.dumps(record, separators=(",", ":"), ensure_ascii=True).encode("ascii")
        digest = _chained(self._head.digest, text)
        line = digest.encode("ascii") + b" " + text + b"\n"
        if len(line) > LINE_LIMIT:
            raise AuditError(f"a line of {len(line)} bytes, more than {LINE_LIMIT}")
        try:
            written = os.write(self._log, line)
        except OSError as error:
            raise AuditError(f"{self._path} cannot be written: {error.strerror}") from error
        if written != len(line):
            os.ftruncate(self._log, self._read)
            raise AuditError(f"{self._path} took {written} of {len(line)} bytes: disk full?")
        self._read += len(line)
        self._head = Head(number=number, digest=digest)

    def _write_head(self) -> None:
        # One write of one short line: a killed process leaves the old one or the new one.
        os.pwrite(self._head_file, sealed_head(self._head, self._key), 0)

    def _check_head(self) -> None:
        """Raise unless the line that the head names is still there."""
        head = os.pread(self._head_file, 4096, 0)
        fault = head_fault(self._path, self._log, head, self._key)
        if fault is not None:
            raise AuditError(f"{self._path}: {fault}")


def verify(
    path: StrPath, *, store_id: bytes, key: bytes | None = None, expected: Head | None = None
) -> AuditReport:
    """Follow the whole log at `path` without changing it, and say what is wrong first.

    With `key` the head beside the log is checked too, which shows a missing end. With
    `expected`, a head noted earlier, the log must contain that very line.

    Raises:
        UsageError: the file cannot be read.
    """
    log = open_private(Path(path), os.O_RDONLY)
    try:
        fcntl.flock(log, fcntl.LOCK_SH)
        start = Head(number=0, digest=genesis(store_id).hex())
        report, _ = follow(log, 0, start)
        fault = report.fault
        if fault is None and expected is not None:
            fault = _missing(log, expected)
        if fault is None and key is not None:
            fault = head_fault(Path(path), log, _head_bytes(Path(path)), key)
    finally:
        os.close(log)
    return AuditReport(head=report.head, fault=fault, unfinished_bytes=report.unfinished_bytes)


def genesis(store_id: bytes) -> bytes:
    """What stands for the hash before the first line of a store's log."""
    return hashlib.sha256(_GENESIS_LABEL + store_id).digest()


def head_path(log: Path) -> Path:
    """Where the head of the log at `log` lies."""
    return log.with_name(log.name + ".head")


def sealed_head(head: Head, key: bytes) -> bytes:
    """Return the content of the head's file: number, hash and MAC, of one fixed length."""
    text = f"{head.number:020d} {head.digest}"
    return f"{text} {_mac(text, key)}\n".encode("ascii")


def follow(log: int, start: int, head: Head) -> tuple[AuditReport, int]:
    """Follow the chain from byte `start`, where `head` is the line before; where it ends."""
    at = start
    for line in _lines(log, start):
        if not line.endswith(b"\n"):
            return AuditReport(head=head, fault=None, unfinished_bytes=len(line)), at
        fault = _line_fault(line, head)
        if fault is not None:
            where = f"line {head.number + 1}: {fault}"
            return AuditReport(head=head, fault=where, unfinished_bytes=0), at
        head = Head(number=head.number + 1, digest=line[:_HASH_DIGITS].decode("ascii"))
        at += len(line)
    return AuditReport(head=head, fault=None, unfinished_bytes=0), at


def head_fault(path: Path, log: int, head: bytes, key: bytes) -> str | None:
    """Whether the log still holds the line that its head names; what is wrong, or None."""
    if not head:
        return f"its head {head_path(path)} is empty or missing"
    number, _, rest = head.decode("ascii", "replace").strip().partition(" ")
    digest, _, mac = rest.partition(" ")
    if len(head) != _HEAD_LINE or not hmac.compare_digest(
        _mac(f"{number} {digest}", key).encode(), mac.encode()
    ):
        return f"its head {head_path(path)} is damaged, or was not written with this key"
    return _missing(log, Head(number=int(number), digest=digest))


def _missing(log: int, head: Head) -> str | None:
    """Whether line `head.number` is the one that it was; what is wrong, or None."""
    count = 0
    whole = (line for line in _lines(log, 0) if line.endswith(b"\n"))
    for count, line in enumerate(whole, start=1):
        if count == head.number:
            same = line[:_HASH_DIGITS] == head.digest.encode("ascii")
            return None if same else f"line {count}: it is another line than it was"
    return f"line {count + 1}: missing; the log had {head.number} lines" if head.number else None


def _line_fault(line: bytes, before: Head) -> str | None:
    digest, _, text = line.rstrip(b"\n").partition(b" ")
    if len(line) > LINE_LIMIT:
        return f"longer than {LINE_LIMIT} bytes"
    if _chained(before.digest, text).encode("ascii") != digest:
        return "its hash does not follow from the lines before"
    return None


def _lines(log: int, start: int) -> Iterator[bytes]:
    """The lines from byte `start` on, each with its newline; the last one perhaps without."""
    rest, at = b"", start
    while piece := os.pread(log, _PIECE, at):
        at += len(piece)
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line + b"\n"
        if len(rest) > LINE_LIMIT:
            yield rest + b"\n"  # refused by its length, whatever follows
            return
    if rest:
        yield rest


def _head_bytes(path: Path) -> bytes:
    place = head_path(path)
    if not place.exists():
        return b""
    descriptor = open_private(place, os.O_RDONLY)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


def _chained(before: str, text: bytes) -> str:
    return hashlib.sha256(bytes.fromhex(before) + text).hexdigest()


def _mac(text: str, key: bytes) -> str:
    return hmac.digest(key, _HEAD_LABEL + text.encode("ascii", "replace"), "sha256").hex()


def _is_digest(text: str) -> bool:
    return len(text) == _HASH_DIGITS and all(digit in "0123456789abcdef" for digit in text)
