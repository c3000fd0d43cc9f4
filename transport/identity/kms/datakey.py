"""The ciphertext of a data key: what it looks like, sealed and opened under a version of a key.

    "SFK1" ‖ version (4) ‖ length (1) ‖ the key's name ‖ salt (32) ‖ sealed data key ‖ tag (16)

AES-256-GCM under a key and nonce that HKDF-SHA-512 derives from the version's material
and the salt, so that no number of data keys under one version comes near the limit for
random 96-bit nonces (SP 800-38D section 8.3). Everything before the salt, and the
encryption context, is associated data.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ...crypto.primitives import AEAD_KEY_LEN, NONCE_LEN, TAG_LEN, hkdf_sha512
from .interface import DATA_KEY_LEN, EncryptionContext, encode_context
from .store import KEY_ID

_MAGIC: Final = b"SFK1"
_SALT_LEN: Final = 32
_LABEL: Final = b"sealfabric 1 data key"
CIPHERTEXT_LIMIT: Final = len(_MAGIC) + 4 + 1 + 128 + _SALT_LEN + DATA_KEY_LEN + TAG_LEN


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedDataKey:
    """A data key's ciphertext, taken apart and not yet verified."""

    key_id: str
    version: int
    salt: bytes
    sealed: bytes


def seal_data_key(
    data_key: bytes | bytearray,
    material: bytes,
    *,
    key_id: str,
    version: int,
    context: EncryptionContext,
) -> bytes:
    """Return the ciphertext of `data_key` under a version of the key `key_id`."""
    head, salt = _head(key_id, version), os.urandom(_SALT_LEN)
    cipher, nonce = _cipher(material, salt)
    return head + salt + cipher.encrypt(nonce, bytes(data_key), head + encode_context(context))


def parse_data_key(ciphertext: bytes) -> SealedDataKey:
    """Take a ciphertext apart.

    Raises:
        ValueError: it is none of ours.
    """
    name_at = len(_MAGIC) + 5
    if not ciphertext.startswith(_MAGIC) or len(ciphertext) < name_at:
        raise ValueError("not a data key's ciphertext")
    salt_at = name_at + ciphertext[name_at - 1]
    key_id = ciphertext[name_at:salt_at].decode("ascii", "replace")
    if KEY_ID.fullmatch(key_id) is None:
        raise ValueError("not a key's name")
    if len(ciphertext) != salt_at + _SALT_LEN + DATA_KEY_LEN + TAG_LEN:
        raise ValueError(f"a data key's ciphertext of {len(ciphertext)} bytes")
    return SealedDataKey(
        key_id=key_id,
        version=int.from_bytes(ciphertext[len(_MAGIC) : len(_MAGIC) + 4], "big"),
        salt=ciphertext[salt_at : salt_at + _SALT_LEN],
        sealed=ciphertext[salt_at + _SALT_LEN :],
    )


def open_data_key(parsed: SealedDataKey, material: bytes, context: EncryptionContext) -> bytes:
    """Return the data key.

    Raises:
        InvalidTag: the ciphertext was changed, or the context or key is another one.
    """
    cipher, nonce = _cipher(material, parsed.salt)
    bound = _head(parsed.key_id, parsed.version) + encode_context(context)
    return cipher.decrypt(nonce, parsed.sealed, bound)


def _head(key_id: str, version: int) -> bytes:
    name = key_id.encode("ascii")
    return _MAGIC + version.to_bytes(4, "big") + bytes((len(name),)) + name


def _cipher(material: bytes, salt: bytes) -> tuple[AESGCM, bytes]:
    derived = hkdf_sha512(material, salt=salt, info=_LABEL, length=AEAD_KEY_LEN + NONCE_LEN)
    return AESGCM(derived[:AEAD_KEY_LEN]), derived[AEAD_KEY_LEN:]


__all__ = [
    "CIPHERTEXT_LIMIT",
    "InvalidTag",
    "SealedDataKey",
    "open_data_key",
    "parse_data_key",
    "seal_data_key",
]
