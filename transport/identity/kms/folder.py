"""`KeyFolder`: a key store and its audit log in one folder, and what an operator does to them.

    keys.db          the key store
    audit.log        the audit log
    audit.log.head   number and hash of its last line, under a MAC

Each change is written to the log, durably, before it is made, and is on the disk when
the call returns. A crash between the two leaves a line about a change that was never
acknowledged, never a change without a line.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final

from ...errors import UsageError
from ..attestation import AttestationPolicy
from ..keys import StrPath
from .audit import AuditLog, AuditReport, AuditValue, Head, verify
from .policy import policy_text
from .store import KeyRecord, KeyStore, Purpose, check_key_id, store_id_of
from .unlock import Unlocking
from .xks import ExternalPolicy

STORE: Final = "keys.db"
AUDIT: Final = "audit.log"


class KeyFolder:
    """An unlocked key store with its audit log. A context manager; one thread at a time.

    Several processes may have one folder open: what one changes holds for the others
    with their next request. `clock` returns POSIX seconds.
    """

    def __init__(self, store: KeyStore, audit: AuditLog, clock: Callable[[], float]) -> None:
        self.store = store
        self.audit = audit
        self._clock = clock

    @classmethod
    def create(
        cls,
        folder: StrPath,
        unlocking: Unlocking,
        *,
        clock: Callable[[], float],
        cost: int | None = None,
    ) -> KeyFolder:
        """Make the folder, mode 0700, with an empty store in it.

        `cost` is log2 of scrypt's N, where a passphrase unlocks the store.

        Raises:
            UsageError: something is there already, or cannot be written.
        """
        place = Path(folder)
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{place} cannot be made: {error.strerror}") from None
        store = KeyStore.create(place / STORE, unlocking, cost=cost)
        log = AuditLog(place / AUDIT, store_id=store.store_id, key=store.audit_key, create=True)
        made = cls(store, log, clock)
        made._write("create store", {"store": store.store_id.hex()})
        return made

    @classmethod
    def open(
        cls, folder: StrPath, unlocking: Unlocking, *, clock: Callable[[], float]
    ) -> KeyFolder:
        """Unlock what is in the folder.

        Raises:
            UsageError: a file is missing, cannot be read or is open to others, or the
                passphrase or key file is another one.
            AuditError: the audit log is not intact.
        """
        place = Path(folder)
        store = KeyStore.open(place / STORE, unlocking)
        try:
            log = AuditLog(place / AUDIT, store_id=store.store_id, key=store.audit_key)
        except BaseException:
            store.close()
            raise
        return cls(store, log, clock)

    def __enter__(self) -> KeyFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self.store.close()
        self.audit.close()

    def create_key(self, key_id: str, policy: AttestationPolicy | ExternalPolicy) -> KeyRecord:
        """Make a key: for attested recipients, or for AWS KMS through the XKS proxy.

        Raises:
            UsageError: the name is taken or not usable.
        """
        check_key_id(key_id)
        if isinstance(policy, AttestationPolicy):
            purpose, text = Purpose.ATTESTED, policy_text(policy)
        else:
            purpose, text = Purpose.EXTERNAL, policy.to_text()
        self._write("create key", {"key": key_id, "purpose": purpose.value, "policy": text})
        return self.store.add(key_id, purpose=purpose, policy=text, now=self._clock())

    def set_policy(self, key_id: str, policy: AttestationPolicy | ExternalPolicy) -> KeyRecord:
        """Give a key another policy of its kind, from the next request on.

        Raises:
            UnknownKeyError: there is no such key.
            UsageError: the policy is of the other kind.
        """
        purpose = self.store.record(key_id).purpose
        is_attestation = isinstance(policy, AttestationPolicy)
        if is_attestation is not (purpose is Purpose.ATTESTED):
            raise UsageError(
                f"key {key_id!r} is an {purpose.value} one; this policy is of the other"
            )
        text = policy_text(policy) if isinstance(policy, AttestationPolicy) else policy.to_text()
        self._write("set policy", {"key": key_id, "policy": text})
        return self.store.set_policy(key_id, text)

    def enable(self, key_id: str, enabled: bool = True) -> KeyRecord:
        """Enable a key, or disable it: the kill switch, effective with the next request.

        Raises:
            UnknownKeyError: there is no such key.
        """
        self.store.record(key_id)
        self._write("enable" if enabled else "disable", {"key": key_id})
        return self.store.enable(key_id, enabled)

    def rotate(self, key_id: str) -> KeyRecord:
        """Begin a new version; what older ones encrypted still decrypts.

        Raises:
            UnknownKeyError: there is no such key.
        """
        self.store.record(key_id)
        self._write("rotate", {"key": key_id})
        return self.store.rotate(key_id)

    def retire(self, key_id: str, before: int) -> KeyRecord:
        """Destroy the versions below `before`, and with them what they encrypted.

        Raises:
            UsageError: there is no such key, or it has no such versions.
        """
        self.store.record(key_id)
        self._write("retire", {"key": key_id, "before": before})
        return self.store.retire(key_id, before)

    def _write(self, event: str, fields: dict[str, AuditValue]) -> None:
        by = f"uid {os.getuid()}, pid {os.getpid()}"
        self.audit.append(event, {**fields, "by": by}, now=self._clock())
        self.audit.sync()


def verify_folder(
    folder: StrPath, unlocking: Unlocking | None, *, expected: Head | None = None
) -> AuditReport:
    """Follow a folder's audit log; see `audit.verify`.

    Without `unlocking` the chain alone is followed, which cannot show a missing end
    unless `expected` names a line that was there.

    Raises:
        UsageError: the files cannot be read, or the secret is another one.
    """
    place = Path(folder)
    if unlocking is None:
        return verify(place / AUDIT, store_id=store_id_of(place / STORE), expected=expected)
    store = KeyStore.open(place / STORE, unlocking)
    try:
        return verify(
            place / AUDIT, store_id=store.store_id, key=store.audit_key, expected=expected
        )
    finally:
        store.close()
