"""COSE_Sign1 with ES384, the envelope of an attestation document (RFC 9052 section 4.2).

    [protected: bytes of {1: -35}, unprotected: {}, payload: bytes, signature: r ‖ s, 96 bytes]

The signature covers protected header and payload *as they came*, never re-encoded: two
encodings of one map are two documents. The unprotected header is not covered by it, so it
must be empty. Tag 18 in front is optional: the standard has it, genuine documents do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.hashes import SHA384

from . import cbor
from .refusal import Refusal, RefusedEvidenceError

__all__ = ["MAX_ENVELOPE", "MAX_PAYLOAD", "Sign1", "parse", "sign"]

MAX_PAYLOAD: Final = 16384  # bytes, of the nsm-api's description
MAX_ENVELOPE: Final = MAX_PAYLOAD + 256
ES384: Final = -35  # RFC 9053 section 2.1

_TAG_18: Final = b"\xd2"
_PROTECTED_LIMIT: Final = 16
_COORDINATE: Final = 48
_ALGORITHM: Final = 1  # the header parameter's label


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign1:
    """An envelope, not yet verified."""

    protected: bytes  # the very bytes that came
    unprotected: object
    payload: bytes  # the very bytes that came
    signature: bytes  # r ‖ s

    def check_headers(self) -> None:
        """Return if the headers are those of an attestation document.

        Raises:
            RefusedEvidenceError: another algorithm, or anything unprotected.
        """
        try:
            header = cbor.decode(self.protected)
        except cbor.MalformedCborError as error:
            raise _malformed(f"protected header: {error}") from None
        algorithm = header.get(_ALGORITHM) if type(header) is dict else None
        if algorithm != ES384 or type(algorithm) is not int or len(header) != 1:
            raise RefusedEvidenceError(
                Refusal.ALGORITHM, f"protected header {self.protected.hex()}, expected ES384 alone"
            )
        if type(self.unprotected) is not dict or self.unprotected:
            raise _malformed("the unprotected header is not an empty map")

    def verify(self, key: EllipticCurvePublicKey) -> None:
        """Return if the signature is `key`'s over the headers and payload as they came.

        Raises:
            RefusedEvidenceError: it is not.
        """
        r, s = (
            int.from_bytes(self.signature[at : at + _COORDINATE], "big") for at in (0, _COORDINATE)
        )
        try:
            key.verify(
                encode_dss_signature(r, s),
                _signature_input(self.protected, self.payload),
                ECDSA(SHA384()),
            )
        except InvalidSignature:
            raise RefusedEvidenceError(
                Refusal.SIGNATURE, "the document's signature does not verify"
            ) from None


def parse(document: bytes) -> Sign1:
    """Return the envelope of `document`; nothing is verified yet.

    Raises:
        RefusedEvidenceError: it is not such an envelope, or exceeds a limit.
    """
    if len(document) > MAX_ENVELOPE:
        raise RefusedEvidenceError(
            Refusal.TOO_LARGE, f"{len(document)} bytes, at most {MAX_ENVELOPE}"
        )
    try:
        parts: Any = cbor.decode(document[1:] if document[:1] == _TAG_18 else document)
    except cbor.MalformedCborError as error:
        raise _malformed(str(error)) from None
    if type(parts) is not list or len(parts) != 4:
        raise _malformed("not an array of four")
    protected, unprotected, payload, signature = parts
    if type(protected) is not bytes or type(payload) is not bytes or type(signature) is not bytes:
        raise _malformed("protected header, payload and signature must be byte strings")
    if len(protected) > _PROTECTED_LIMIT or len(payload) > MAX_PAYLOAD:
        raise RefusedEvidenceError(
            Refusal.TOO_LARGE, f"protected header {len(protected)}, payload {len(payload)} bytes"
        )
    if len(signature) != 2 * _COORDINATE:
        raise _malformed(f"a signature of {len(signature)} bytes, expected {2 * _COORDINATE}")
    return Sign1(protected=protected, unprotected=unprotected, payload=payload, signature=signature)


def sign(payload: bytes, key: EllipticCurvePrivateKey) -> bytes:
    """Return `payload` in an envelope signed by `key`, which must be on P-384."""
    protected = cbor.encode({_ALGORITHM: ES384})
    der = key.sign(_signature_input(protected, payload), ECDSA(SHA384()))
    signature = b"".join(part.to_bytes(_COORDINATE, "big") for part in decode_dss_signature(der))
    return cbor.encode([protected, {}, payload, signature])


def _signature_input(protected: bytes, payload: bytes) -> bytes:
    return cbor.encode(["Signature1", protected, b"", payload])


def _malformed(detail: str) -> RefusedEvidenceError:
    return RefusedEvidenceError(Refusal.MALFORMED, detail)
