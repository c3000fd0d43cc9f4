"""`AttestedKeys`: how a program asks a key service for keys that only it can open.

For each call it makes an RSA-2048 key pair, has it attested, and opens the answer with
it. The caller never chooses the recipient key and never sees it, and the private key is
gone when the call ends, so that an answer cannot be opened twice.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from ...errors import AuthenticationError
from ..attestation import Attester
from . import cms
from .interface import DATA_KEY_LEN, EncryptionContext, KeyService, Operation, request_binding

RECIPIENT_BITS: Final = 2048
_EXPONENT: Final = 65537


class AttestedKeys:
    """Data keys from `service`, for the program that `attester` attests.

    Any thread may use it, if any may use `service` and `attester`. Each call takes some
    tens of milliseconds, most of them to make the recipient key.
    """

    def __init__(self, service: KeyService, attester: Attester) -> None:
        self._service = service
        self._attester = attester

    def generate_data_key(self, key_id: str, context: EncryptionContext) -> tuple[bytearray, bytes]:
        """Return a new 32-byte data key, and its ciphertext to be kept for `decrypt`.

        The key is the caller's to overwrite after use.

        Raises:
            UsageError: the context is not usable.
            PeerRefusedError: the service refused.
            AuthenticationError: its answer cannot be opened.
        """
        recipient, attested = self._recipient(Operation.GENERATE, key_id.encode("utf-8"), context)
        answer = self._service.generate_data_key(key_id, context, attested)
        return _opened(answer.ciphertext_for_recipient, recipient), answer.ciphertext

    def decrypt(self, ciphertext: bytes, context: EncryptionContext) -> bytearray:
        """Return the data key that `generate_data_key` once returned with `ciphertext`.

        Raises: as `generate_data_key`.
        """
        recipient, attested = self._recipient(Operation.DECRYPT, ciphertext, context)
        return _opened(self._service.decrypt(ciphertext, context, attested), recipient)

    def _recipient(
        self, operation: Operation, subject: bytes, context: EncryptionContext
    ) -> tuple[rsa.RSAPrivateKey, bytes]:
        """A key pair of this call, and evidence that vouches for it."""
        challenge = self._service.challenge()
        binding = request_binding(operation, subject, context, challenge)
        recipient = rsa.generate_private_key(_EXPONENT, RECIPIENT_BITS)
        public = recipient.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        return recipient, self._attester.evidence(public, binding, challenge or None)


def recipient_of(public_key: bytes | None) -> rsa.RSAPublicKey:
    """Return the recipient key in attested evidence: RSA-2048 with exponent 65537.

    Raises:
        ValueError: it is anything else.
    """
    if public_key is None:
        raise ValueError("no recipient key")
    try:
        key = load_der_public_key(public_key)
    except Exception as error:  # the library documents no closed set of exceptions
        raise ValueError("not a SubjectPublicKeyInfo") from error
    if not isinstance(key, rsa.RSAPublicKey):
        raise ValueError("not an RSA key")
    if key.key_size != RECIPIENT_BITS or key.public_numbers().e != _EXPONENT:
        raise ValueError(f"an RSA key of {key.key_size} bits, or of an unusual exponent")
    if key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != public_key:
        raise ValueError("not the one encoding of a SubjectPublicKeyInfo")
    return key


def _opened(envelope: bytes, recipient: rsa.RSAPrivateKey) -> bytearray:
    data_key = cms.open_envelope(envelope, recipient)
    if len(data_key) != DATA_KEY_LEN:
        raise AuthenticationError(cms.REFUSED)
    return data_key
