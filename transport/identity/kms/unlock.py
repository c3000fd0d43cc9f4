"""How a key store is unlocked: the keys that a passphrase or a key file stands for.

The key-encryption key is derived, never stored, and lives in the process that unlocked
the store. A passphrase goes through scrypt (RFC 7914), whose cost stands in the store; a
key file holds random bytes and needs no stretching. From what results come three keys
by HKDF-SHA-512 (RFC 5869), one for each use.
"""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from ...crypto.primitives import KeyHolder, hkdf_sha512, wipe
from ...errors import UsageError
from ..keys import StrPath, read_private_file

PASSPHRASE_MIN: Final = 12  # bytes
KEY_FILE_MIN: Final = 32  # bytes
SCRYPT_COST: Final = 17  # log2 of N: 128 MiB and about half a second
SALT_LEN: Final = 32

_SCRYPT_COSTS: Final = range(10, 21)  # what a store may ask for; 20 takes 1 GiB
_SCRYPT_R: Final = 8
_SCRYPT_P: Final = 1
_KEY_LEN: Final = 32
_LABEL: Final = b"sealfabric 1 key store: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Derivation:
    """How the keys of one store are derived; public, and kept in the store."""

    kind: str  # "passphrase" or "key file"
    salt: bytes
    cost: int  # log2 of scrypt's N; 0 for a key file

    @classmethod
    def for_passphrase(cls, cost: int = SCRYPT_COST) -> Derivation:
        """A new derivation from a passphrase.

        Raises:
            UsageError: `cost` is not 10 to 20.
        """
        if cost not in _SCRYPT_COSTS:
            raise UsageError(f"the cost of scrypt is 10 to 20 (log2 of N), got {cost}")
        return cls(kind="passphrase", salt=os.urandom(SALT_LEN), cost=cost)

    @classmethod
    def for_key_file(cls) -> Derivation:
        """A new derivation from a key file."""
        return cls(kind="key file", salt=os.urandom(SALT_LEN), cost=0)

    def is_valid(self) -> bool:
        """Whether these are values that this release derives with."""
        if len(self.salt) != SALT_LEN:
            return False
        if self.kind == "key file":
            return self.cost == 0
        return self.kind == "passphrase" and self.cost in _SCRYPT_COSTS


class StoreKeys(KeyHolder):
    """The keys of an unlocked store. They leave this process in no form."""

    __slots__ = ("audit", "seal", "wrap", "_check")

    def __init__(self, secret: bytes | bytearray, derivation: Derivation) -> None:
        self.wrap = _derived(secret, derivation, b"wrap")
        """Wraps keys (AES-256-GCM)."""
        self.seal = _derived(secret, derivation, b"seal")
        """Authenticates what the store says of a key (HMAC-SHA-256)."""
        self.audit = _derived(secret, derivation, b"audit")
        """Authenticates the head of the audit log (HMAC-SHA-256)."""
        self._check = _derived(secret, derivation, b"check")

    def check(self, store_id: bytes) -> bytes:
        """What tells the right secret from a wrong one, kept in the store."""
        return hmac.digest(self._check, store_id, "sha256")


class Unlocking(KeyHolder):
    """A passphrase or the content of a key file, until a store says how to use it.

    Raises:
        UsageError: it is too short.
    """

    __slots__ = ("_kind", "_secret")

    def __init__(self, secret: bytes | bytearray, *, kind: str) -> None:
        least = PASSPHRASE_MIN if kind == "passphrase" else KEY_FILE_MIN
        if len(secret) < least:
            raise UsageError(f"the {kind} holds {len(secret)} bytes, at least {least} are needed")
        self._kind = kind
        self._secret = bytearray(secret)

    @classmethod
    def passphrase(cls, text: str) -> Unlocking:
        """With a passphrase of at least 12 bytes of UTF-8."""
        return cls(text.encode("utf-8"), kind="passphrase")

    @classmethod
    def passphrase_file(cls, path: StrPath) -> Unlocking:
        """With the first line of a file that only its owner may access.

        Raises:
            UsageError: the file cannot be read, others may access it, or its line is short.
        """
        content = read_private_file(path)
        return cls(content.split(b"\n", 1)[0].rstrip(b"\r"), kind="passphrase")

    @classmethod
    def key_file(cls, path: StrPath) -> Unlocking:
        """With all bytes of a file, at least 32, that only its owner may access.

        Raises:
            UsageError: the file cannot be read, others may access it, or it is short.
        """
        return cls(read_private_file(path), kind="key file")

    def derivation(self, cost: int = SCRYPT_COST) -> Derivation:
        """A new derivation that fits, for a new store; `cost` is scrypt's, for a passphrase."""
        if self._kind == "passphrase":
            return Derivation.for_passphrase(cost)
        return Derivation.for_key_file()

    def keys(self, derivation: Derivation) -> StoreKeys:
        """Derive a store's keys.

        Raises:
            UsageError: the store is unlocked by the other kind.
        """
        if derivation.kind != self._kind:
            raise UsageError(f"the store is unlocked by a {derivation.kind}, not a {self._kind}")
        if derivation.kind == "key file":
            return StoreKeys(self._secret, derivation)
        stretched = bytearray(
            Scrypt(
                salt=derivation.salt,
                length=_KEY_LEN,
                n=1 << derivation.cost,
                r=_SCRYPT_R,
                p=_SCRYPT_P,
            ).derive(self._secret)
        )
        try:
            return StoreKeys(stretched, derivation)
        finally:
            wipe(stretched)


def _derived(secret: bytes | bytearray, derivation: Derivation, use: bytes) -> bytes:
    return hkdf_sha512(secret, salt=derivation.salt, info=_LABEL + use, length=_KEY_LEN)
