"""What every key service offers, ours or AWS's: `KeyService`, and what binds a request.

A key service makes data keys and opens what it encrypted under them, for attested
recipients only. A plaintext key never crosses this interface: it comes in an envelope
(`cms`) for the RSA key that the evidence of that very request vouches for.

Evidence is bound to its request: its user data covers the operation, the key or
ciphertext, the encryption context and the service's challenge, so it is of no use for
another request, and of none for the same one again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from ...errors import UsageError

DATA_KEY_LEN: Final = 32  # bytes of every data key: AES-256
CONTEXT_LIMIT: Final = 8192  # bytes of an encoded context, as at AWS KMS
CONTEXT_PAIRS: Final = 64
_LABEL: Final = b"sealfabric 1 key request"

EncryptionContext = Mapping[str, str]
"""What a data key is for, in pairs of text. Not secret: it stands in audit logs."""


class Operation(Enum):
    """What is asked of a key service."""

    GENERATE = b"generate data key"
    DECRYPT = b"decrypt"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataKey:
    """A new data key, twice: to be kept, and for the recipient now."""

    ciphertext: bytes
    """To be stored beside what the data key encrypts, and given to `decrypt` later."""
    ciphertext_for_recipient: bytes
    """The data key in an envelope for the attested recipient; see `cms.open_envelope`."""


class KeyService(Protocol):
    """A service that releases keys to attested recipients.

    `evidence` is an attestation document whose public key is an RSA-2048
    SubjectPublicKeyInfo made for that call, whose user data is `request_binding(...)`
    and whose nonce is the challenge. `AttestedKeys` makes all three.
    """

    def challenge(self) -> bytes:
        """Return the nonce of the next request's evidence; empty where none is asked for.

        It serves once, and for about a minute.
        """
        ...

    def generate_data_key(
        self, key_id: str, context: EncryptionContext, evidence: bytes
    ) -> DataKey:
        """Return a new 32-byte data key, bound to `context`.

        Raises:
            UsageError: the context is not usable.
            PeerRefusedError: the service refused; its reason stands in its own log.
        """
        ...

    def decrypt(self, ciphertext: bytes, context: EncryptionContext, evidence: bytes) -> bytes:
        """Return, in an envelope for the recipient, the data key that is in `ciphertext`.

        Raises:
            UsageError: the context is not usable.
            PeerRefusedError: the service refused; its reason stands in its own log.
        """
        ...


def encode_context(context: EncryptionContext) -> bytes:
    """Return the one encoding of `context`: its pairs, sorted, each text with its length.

    Raises:
        UsageError: it is empty, holds anything but text, or is too long.
    """
    if not isinstance(context, Mapping) or not context:
        raise UsageError(f"an encryption context is a mapping of text, not empty: {context!r:.80}")
    if len(context) > CONTEXT_PAIRS:
        raise UsageError(f"an encryption context has at most {CONTEXT_PAIRS} pairs")
    encoded = bytearray()
    for name, value in sorted(_checked_pairs(context)):
        for text in (name, value):
            encoded += len(text).to_bytes(2, "big") + text
            if len(encoded) > CONTEXT_LIMIT:
                raise UsageError(f"an encryption context holds at most {CONTEXT_LIMIT} bytes")
    return bytes(encoded)


def decode_context(encoded: bytes) -> dict[str, str]:
    """Return the context that `encode_context` encoded.

    Raises:
        ValueError: `encoded` is not the encoding of a context.
    """
    texts: list[str] = []
    at = 0
    while at < len(encoded):
        end = at + 2 + int.from_bytes(encoded[at : at + 2], "big")
        if end > len(encoded) or len(texts) == 2 * CONTEXT_PAIRS:
            raise ValueError("truncated, or too many pairs")
        texts.append(encoded[at + 2 : end].decode("utf-8"))
        at = end
    context = dict(zip(texts[::2], texts[1::2], strict=True))
    # What encodes to other bytes was unsorted, repeated, empty or too long.
    if encode_context(context) != encoded:
        raise ValueError("not the one encoding of a context")
    return context


def request_binding(
    operation: Operation, subject: bytes, context: EncryptionContext, challenge: bytes
) -> bytes:
    """Return the user data, 64 bytes, of the evidence for one request.

    `subject` is the key's name in UTF-8, or the ciphertext to decrypt.
    """
    digest = hashlib.sha512(_LABEL)
    for part in (operation.value, subject, encode_context(context), challenge):
        digest.update(len(part).to_bytes(4, "big") + part)
    return digest.digest()


def _checked_pairs(context: EncryptionContext) -> list[tuple[bytes, bytes]]:
    pairs = []
    for name, value in context.items():
        if not isinstance(name, str) or not isinstance(value, str) or not name:
            raise UsageError(f"an encryption context maps text to text: {name!r:.40}")
        try:
            pairs.append((name.encode("utf-8"), value.encode("utf-8")))
        except UnicodeEncodeError:
            raise UsageError(
                f"an encryption context holds no lone surrogates: {name!r:.40}"
            ) from None
    return pairs
