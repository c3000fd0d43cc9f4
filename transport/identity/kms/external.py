"""Encryption under an external key, as the XKS proxy specification defines it, version 1.

AES-256-GCM with associated data of the form

    length of AAD (2) ‖ AAD ‖ length of metadata (1) ‖ metadata

The *ciphertext metadata*, 20 bytes that AWS KMS keeps for us, holds a format number, the
key's version and a salt. From the version's material and the salt comes the key of this
one ciphertext, so that no number of encryptions comes near the limit for random 96-bit
nonces (SP 800-38D section 8.3). The *data integrity value* is a SHA-256 by which KMS
notices bits that flipped on the way.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ...crypto.primitives import AEAD_KEY_LEN, NONCE_LEN, TAG_LEN, hkdf_sha512

METADATA_LEN: Final = 20  # all that the specification allows

_FORMAT: Final = 1
_SALT_LEN: Final = 16
_LABEL: Final = b"sealfabric 1 external key"


class CiphertextError(ValueError):
    """A ciphertext, its nonce, tag, metadata or associated data is not what was encrypted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalCiphertext:
    """What `encrypt` returns to AWS KMS, field by field."""

    ciphertext: bytes
    metadata: bytes
    iv: bytes
    tag: bytes


def encrypt(plaintext: bytes, material: bytes, version: int, aad: bytes) -> ExternalCiphertext:
    """Encrypt under one version of a key."""
    salt, iv = os.urandom(_SALT_LEN), os.urandom(NONCE_LEN)
    metadata = bytes((_FORMAT,)) + version.to_bytes(3, "big") + salt
    sealed = _cipher(material, salt).encrypt(iv, plaintext, associated_data(aad, metadata))
    return ExternalCiphertext(
        ciphertext=sealed[:-TAG_LEN], metadata=metadata, iv=iv, tag=sealed[-TAG_LEN:]
    )


def version_of(encrypted: ExternalCiphertext) -> int:
    """Return the key's version that `encrypted` says it was made under.

    Raises:
        CiphertextError: a field has not the length that `encrypt` gave it.
    """
    if (
        len(encrypted.metadata) != METADATA_LEN
        or encrypted.metadata[0] != _FORMAT
        or len(encrypted.iv) != NONCE_LEN
        or len(encrypted.tag) != TAG_LEN
    ):
        raise CiphertextError("metadata, initialization vector or tag are not ours")
    return int.from_bytes(encrypted.metadata[1:4], "big")


def decrypt(encrypted: ExternalCiphertext, material: bytes, aad: bytes) -> bytes:
    """Return the plaintext; `version_of` has accepted `encrypted`.

    Raises:
        CiphertextError: something was changed, or the key or `aad` is another one.
    """
    cipher = _cipher(material, encrypted.metadata[4:])
    sealed = encrypted.ciphertext + encrypted.tag
    try:
        return cipher.decrypt(encrypted.iv, sealed, associated_data(aad, encrypted.metadata))
    except InvalidTag:
        raise CiphertextError("the tag does not verify") from None


def associated_data(aad: bytes, metadata: bytes) -> bytes:
    """Return the input of AES-GCM; the lengths keep AAD and metadata apart."""
    return len(aad).to_bytes(2, "big") + aad + bytes((len(metadata),)) + metadata


def data_integrity_value(encrypted: ExternalCiphertext, aad: bytes) -> bytes:
    """Return the SHA-256 of Appendix C: AAD, metadata, IV, ciphertext and tag."""
    parts = (aad, encrypted.metadata, encrypted.iv, encrypted.ciphertext, encrypted.tag)
    return hashlib.sha256(b"".join(parts)).digest()


def _cipher(material: bytes, salt: bytes) -> AESGCM:
    return AESGCM(hkdf_sha512(material, salt=salt, info=_LABEL, length=AEAD_KEY_LEN))
