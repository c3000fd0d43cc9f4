"""The key store: keys in an SQLite file, wrapped under a key that is not in it.

Invariants:

- A key stands in the file only under AES-256-GCM, bound to the store, the key's name and
  its version.
- What the file says of a key (whether it is enabled, its policy, its versions) is under
  a MAC. A record that was edited without the store's secret makes its key unusable.
- A change is acknowledged after it is on the disk (write-ahead log, synchronous FULL), so
  a kill at any moment loses nothing that was acknowledged.
- Every call reads the file anew, so that a change by another process holds at once; a
  record older than one seen before is refused.

Putting an old copy of the whole file back is not noticed across a restart. One thread at
a time may use a `KeyStore`; several processes may open the same file.
"""

from __future__ import annotations

import hmac
import json
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ...errors import TransportError, UsageError
from ..keys import StrPath
from .files import open_private, sync_folder
from .unlock import Derivation, StoreKeys, Unlocking

KEY_LEN: Final = 32
KEY_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")  # as a path of an XKS proxy allows

_FORMAT: Final = 1
_APPLICATION: Final = 0x5346_4B53  # "SFKS", for file(1)
_STORE_ID_LEN: Final = 16
_NONCE_LEN: Final = 12
_WRAP_LABEL: Final = b"sealfabric 1 wrapped key"
_SEAL_LABEL: Final = b"sealfabric 1 key record"
_BUSY_SECONDS: Final = 5.0  # another process holds the file for milliseconds

_SCHEMA: Final = (
    "CREATE TABLE store (format INTEGER, id BLOB, kind TEXT, salt BLOB, cost INTEGER, token BLOB)",
    "CREATE TABLE keys (id TEXT PRIMARY KEY, record TEXT NOT NULL, seal BLOB NOT NULL)"
    " WITHOUT ROWID",
    "CREATE TABLE versions (id TEXT, version INTEGER, wrapped BLOB NOT NULL,"
    " PRIMARY KEY (id, version)) WITHOUT ROWID",
)


class KeyStoreError(TransportError):
    """The key store is damaged, was tampered with, or cannot be reached."""


class UnknownKeyError(UsageError):
    """There is no key with this name."""


class Purpose(Enum):
    """What a key may be used for: exactly one thing."""

    ATTESTED = "attested"
    """Data keys, released to attested recipients only."""
    EXTERNAL = "external"
    """The XKS proxy's: AWS KMS encrypts and decrypts with it, without attestation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """What the store says of one key."""

    key_id: str
    purpose: Purpose
    created: float  # seconds since 1970
    enabled: bool
    current: int  # version that new data keys are made under
    oldest: int  # lowest version that still decrypts
    policy: str | None  # JSON: whom an ATTESTED key is released to, who uses an EXTERNAL one
    revision: int  # grows with every change


class KeyStore:
    """An unlocked store; see `create` and `open`."""

    def __init__(self, path: Path, connection: sqlite3.Connection, unlocking: Unlocking) -> None:
        self._path = path
        self._connection = connection
        self.store_id, derivation, token = _header(path, connection)
        self._keys: StoreKeys = unlocking.keys(derivation)
        if not hmac.compare_digest(self._keys.check(self.store_id), token):
            raise UsageError(f"{path} cannot be unlocked: wrong {derivation.kind}")
        self._wrapping = AESGCM(self._keys.wrap)
        self._seen: dict[str, int] = {}

    @classmethod
    def create(cls, path: StrPath, unlocking: Unlocking, *, cost: int | None = None) -> KeyStore:
        """Make a new, empty store with mode 0600; `cost` is log2 of scrypt's N.

        Raises:
            UsageError: `path` exists or cannot be written, or `cost` is out of range.
        """
        place = Path(path)
        derivation = unlocking.derivation() if cost is None else unlocking.derivation(cost)
        store_id = os.urandom(_STORE_ID_LEN)
        token = unlocking.keys(derivation).check(store_id)
        try:
            os.close(os.open(place, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            raise UsageError(f"{place} exists already; it was left as it is") from None
        except OSError as error:
            raise UsageError(f"{place} cannot be written: {error.strerror}") from error
        connection = _connect(place)
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        for statement in _SCHEMA:
            connection.execute(statement)
        row = (_FORMAT, store_id, derivation.kind, derivation.salt, derivation.cost, token)
        connection.execute("INSERT INTO store VALUES (?, ?, ?, ?, ?, ?)", row)
        connection.execute("COMMIT")
        sync_folder(place.parent)
        return cls(place, connection, unlocking)

    @classmethod
    def open(cls, path: StrPath, unlocking: Unlocking) -> KeyStore:
        """Open and unlock the store at `path`.

        Raises:
            UsageError: it cannot be read, others may access it, it is not a key store,
                or the passphrase or key file is not the one it was made with.
        """
        place = Path(path)
        connection = _connect_existing(place)
        try:
            return cls(place, connection, unlocking)
        except BaseException:
            connection.close()
            raise

    @property
    def audit_key(self) -> bytes:
        """The key that authenticates the head of this store's audit log."""
        return self._keys.audit

    def close(self) -> None:
        """Close the file; the write-ahead log is merged into it."""
        self._connection.close()

    # --- reading ---------------------------------------------------------------------

    def key_ids(self) -> tuple[str, ...]:
        """The names of all keys, sorted."""
        with self._faults():
            return tuple(
                str(row[0]) for row in self._connection.execute("SELECT id FROM keys ORDER BY id")
            )

    def record(self, key_id: str) -> KeyRecord:
        """What the store says of a key at this moment.

        Raises:
            UnknownKeyError: there is no such key.
            KeyStoreError: its record was tampered with, or is older than one seen before.
        """
        with self._faults():
            row = self._connection.execute(
                "SELECT record, seal FROM keys WHERE id = ?", (key_id,)
            ).fetchone()
        if row is None:
            raise UnknownKeyError(f"no key is called {key_id!r:.140}")
        text, seal = row
        if not hmac.compare_digest(self._sealed(key_id, str(text)), bytes(seal)):
            raise KeyStoreError(f"the record of key {key_id!r} was changed from outside")
        record = _parsed(str(text))
        if record.revision < self._seen.get(key_id, 0):
            raise KeyStoreError(f"the record of key {key_id!r} is older than one seen before")
        return self._noted(record)

    def material(self, record: KeyRecord, version: int) -> bytes:
        """The 32 bytes of one version of a key, for use in this process alone.

        Raises:
            UnknownKeyError: there is no such version, or it was retired.
            KeyStoreError: it was tampered with.
        """
        if not record.oldest <= version <= record.current:
            raise UnknownKeyError(f"key {record.key_id!r} has no version {version}")
        with self._faults():
            row = self._connection.execute(
                "SELECT wrapped FROM versions WHERE id = ? AND version = ?",
                (record.key_id, version),
            ).fetchone()
        if row is None:
            raise KeyStoreError(f"version {version} of key {record.key_id!r} is missing")
        wrapped = bytes(row[0])
        try:
            return self._wrapping.decrypt(
                wrapped[:_NONCE_LEN], wrapped[_NONCE_LEN:], self._place(record.key_id, version)
            )
        except (InvalidTag, ValueError):
            raise KeyStoreError(
                f"version {version} of key {record.key_id!r} was changed from outside"
            ) from None

    # --- changing; durable on return ---------------------------------------------------

    def add(
        self, key_id: str, *, purpose: Purpose, policy: str | None = None, now: float
    ) -> KeyRecord:
        """Make a new key; `policy` is JSON, and an `ATTESTED` key needs one.

        Raises:
            UsageError: the name is taken or not usable, or the policy is missing.
        """
        check_key_id(key_id)
        if policy is None and purpose is Purpose.ATTESTED:
            raise UsageError("an attested key needs a policy")
        record = KeyRecord(
            key_id=key_id,
            purpose=purpose,
            created=now,
            enabled=True,
            current=1,
            oldest=1,
            policy=policy,
            revision=1,
        )
        with self._changing():
            if self._connection.execute("SELECT 1 FROM keys WHERE id = ?", (key_id,)).fetchone():
                raise UsageError(f"a key called {key_id!r} exists already")
            self._add_version(key_id, 1)
            text = _written(record)
            self._connection.execute(
                "INSERT INTO keys VALUES (?, ?, ?)", (key_id, text, self._sealed(key_id, text))
            )
        return record

    def enable(self, key_id: str, enabled: bool = True) -> KeyRecord:
        """Enable a key, or disable it: the kill switch, effective with the next request."""
        with self._changing():
            changed = self._change(replace(self.record(key_id), enabled=enabled))
        return self._noted(changed)

    def set_policy(self, key_id: str, policy: str) -> KeyRecord:
        """Give a key another policy, from the next request on."""
        with self._changing():
            changed = self._change(replace(self.record(key_id), policy=policy))
        return self._noted(changed)

    def rotate(self, key_id: str) -> KeyRecord:
        """Add a version for what is encrypted from now on; older versions still decrypt."""
        with self._changing():
            record = self.record(key_id)
            self._add_version(key_id, record.current + 1)
            changed = self._change(replace(record, current=record.current + 1))
        return self._noted(changed)

    def retire(self, key_id: str, before: int) -> KeyRecord:
        """Destroy the versions below `before`: nothing decrypts what they encrypted.

        Raises:
            UsageError: `before` is beyond the current version, or they are gone already.
        """
        with self._changing():
            record = self.record(key_id)
            if not record.oldest < before <= record.current:
                raise UsageError(
                    f"key {key_id!r} has versions {record.oldest} to {record.current}; "
                    f"retiring those below {before} is not possible"
                )
            self._connection.execute(
                "DELETE FROM versions WHERE id = ? AND version < ?", (key_id, before)
            )
            changed = self._change(replace(record, oldest=before))
        with self._faults():  # so that the write-ahead log does not keep them either
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return self._noted(changed)

    def _add_version(self, key_id: str, version: int) -> None:
        nonce = os.urandom(_NONCE_LEN)
        material = os.urandom(KEY_LEN)
        wrapped = nonce + self._wrapping.encrypt(nonce, material, self._place(key_id, version))
        self._connection.execute(
            "INSERT INTO versions VALUES (?, ?, ?)", (key_id, version, wrapped)
        )

    def _change(self, record: KeyRecord) -> KeyRecord:
        changed = replace(record, revision=record.revision + 1)
        text = _written(changed)
        self._connection.execute(
            "UPDATE keys SET record = ?, seal = ? WHERE id = ?",
            (text, self._sealed(record.key_id, text), record.key_id),
        )
        return changed

    def _noted(self, record: KeyRecord) -> KeyRecord:
        """Remember that this revision is on the disk."""
        self._seen[record.key_id] = record.revision
        return record

    def _sealed(self, key_id: str, text: str) -> bytes:
        said = _SEAL_LABEL + self.store_id + _framed(key_id) + text.encode("utf-8")
        return hmac.digest(self._keys.seal, said, "sha256")

    def _place(self, key_id: str, version: int) -> bytes:
        """What a wrapped key is bound to."""
        return _WRAP_LABEL + self.store_id + _framed(key_id) + version.to_bytes(4, "big")

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """One transaction: all or nothing, and on the disk when it ends."""
        with self._faults():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise KeyStoreError(f"{self._path}: {error}") from error


def check_key_id(key_id: str) -> str:
    """Return `key_id`: 1 to 128 letters, digits, underscores, and not first hyphens and dots.

    Raises:
        UsageError: it is not.
    """
    if not isinstance(key_id, str) or KEY_ID.fullmatch(key_id) is None:
        raise UsageError(
            f"a key's name is 1 to 128 letters, digits, '_', and after the first also '-' and "
            f"'.', got {key_id!r:.140}"
        )
    return key_id


def store_id_of(path: StrPath) -> bytes:
    """Return the identity of the store at `path` without unlocking it.

    Raises:
        UsageError: it cannot be read or is not a key store.
    """
    connection = _connect_existing(Path(path))
    try:
        return _header(Path(path), connection)[0]
    finally:
        connection.close()


def _connect_existing(path: Path) -> sqlite3.Connection:
    # Read and write, because SQLite joins the write-ahead log even to read.
    os.close(open_private(path, os.O_RDWR))
    return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        # A file that somebody else wrote must not make SQLite run what it holds.
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("PRAGMA synchronous = FULL")
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise UsageError(f"{path}: this file system cannot hold a write-ahead log ({mode})")
    except sqlite3.DatabaseError as error:
        connection.close()
        raise UsageError(f"{path} is not a key store: {error}") from None
    except BaseException:
        connection.close()
        raise
    return connection


def _header(path: Path, connection: sqlite3.Connection) -> tuple[bytes, Derivation, bytes]:
    """The store's identity, how it is unlocked, and what tells the right secret."""
    try:
        rows = connection.execute(
            "SELECT format, id, kind, salt, cost, token FROM store"
        ).fetchall()
    except sqlite3.DatabaseError as error:
        raise UsageError(f"{path} is not a key store: {error}") from None
    if len(rows) != 1 or rows[0][0] != _FORMAT:
        raise UsageError(f"{path} is not a key store of format {_FORMAT}")
    _, store_id, kind, salt, cost, token = rows[0]
    if not (
        isinstance(store_id, bytes)
        and isinstance(salt, bytes)
        and isinstance(cost, int)
        and isinstance(token, bytes)
        and (derivation := Derivation(kind=str(kind), salt=salt, cost=cost)).is_valid()
    ):
        raise UsageError(f"{path}: its header is damaged")
    return store_id, derivation, token


def _written(record: KeyRecord) -> str:
    fields = asdict(record) | {"purpose": record.purpose.value}
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))


def _parsed(text: str) -> KeyRecord:
    """A record whose MAC has verified, so that this package wrote it."""
    fields = json.loads(text)
    return KeyRecord(**fields | {"purpose": Purpose(fields["purpose"])})


def _framed(text: str) -> bytes:
    encoded = text.encode("utf-8")
    return len(encoded).to_bytes(2, "big") + encoded
