"""An attestation document's payload, parsed once into types (aws-nitro-enclaves-nsm-api,
docs/attestation_process.md section 2.2, and what genuine documents really do).

Where the two differ, genuine documents are followed: maps of definite and of indefinite
length, null for an optional field that is left out, and up to 1024 bytes in each of
`user_data`, `nonce` and `public_key`. Every field has its type and its limit; a field
that is not known makes it a document of another type, such as NitroTPM's, which has
`nitrotpm_pcrs`, and is not judged by rules that were not made for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from . import cbor
from .refusal import Refusal, RefusedEvidenceError

__all__ = ["DIGEST", "FIELD_LIMIT", "PCR_COUNT", "PCR_SIZE", "Document", "encode", "parse"]

DIGEST: Final = "SHA384"
PCR_COUNT: Final = 32
PCR_SIZE: Final = 48  # bytes of SHA-384
FIELD_LIMIT: Final = 1024  # bytes of public_key, user_data and nonce, each
CERTIFICATE_LIMIT: Final = 1024  # bytes of DER
CHAIN_LIMIT: Final = 8  # issuers; Nitro has four
MODULE_ID_LIMIT: Final = 255  # characters

_PCR_SIZES: Final = (32, 48, 64)
_TIMESTAMP_LIMIT: Final = 1 << 53  # ms; a float of it is exact
_REQUIRED: Final = ("module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle")
_OPTIONAL: Final = ("public_key", "user_data", "nonce")


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What a document says; whether it is true is for the chain and the signature."""

    module_id: str
    timestamp_ms: int  # since the epoch
    pcrs: Mapping[int, bytes]
    certificate: bytes  # DER
    cabundle: tuple[bytes, ...]  # DER, the root first
    public_key: bytes | None = None
    user_data: bytes | None = None
    nonce: bytes | None = None

    @property
    def debug(self) -> bool:
        """Whether PCR0, 1 and 2 are zero, as they are for an enclave in debug mode."""
        return all(not any(self.pcrs.get(index, b"")) for index in (0, 1, 2))


def parse(payload: bytes) -> Document:
    """Return what `payload` says.

    Raises:
        RefusedEvidenceError: it is not an attestation document's payload.
    """
    fields = _fields(payload)
    digest = fields["digest"]
    if digest != DIGEST:
        raise RefusedEvidenceError(
            Refusal.ALGORITHM if type(digest) is str else Refusal.MALFORMED,
            f"digest {digest!r:.40}, expected {DIGEST!r}",
        )
    return Document(
        module_id=_module_id(fields["module_id"]),
        timestamp_ms=_timestamp(fields["timestamp"]),
        pcrs=_pcrs(fields["pcrs"]),
        certificate=_octets(fields["certificate"], "certificate", CERTIFICATE_LIMIT),
        cabundle=_cabundle(fields["cabundle"]),
        public_key=_optional(fields, "public_key"),
        user_data=_optional(fields, "user_data"),
        nonce=_optional(fields, "nonce"),
    )


def encode(document: Document) -> bytes:
    """Return the payload that says what `document` does, its fields in Nitro's order."""
    return cbor.encode(
        {
            "module_id": document.module_id,
            "digest": DIGEST,
            "timestamp": document.timestamp_ms,
            "pcrs": dict(document.pcrs),
            "certificate": document.certificate,
            "cabundle": list(document.cabundle),
            "public_key": document.public_key,
            "user_data": document.user_data,
            "nonce": document.nonce,
        }
    )


def _fields(payload: bytes) -> dict[str, Any]:
    try:
        fields = cbor.decode(payload, indefinite=True)
    except cbor.MalformedCborError as error:
        raise _malformed(f"payload: {error}") from None
    if type(fields) is not dict or not all(type(name) is str for name in fields):
        raise _malformed("the payload is not a map with text keys")
    unknown = sorted(fields.keys() - {*_REQUIRED, *_OPTIONAL})
    if unknown:
        named = ", ".join(f"{name!r:.40}" for name in unknown[:4])
        raise RefusedEvidenceError(Refusal.OTHER_TYPE, f"a document with the fields {named}")
    missing = [name for name in _REQUIRED if name not in fields]
    if missing:
        raise _malformed(f"without the fields {', '.join(missing)}")
    return fields


def _module_id(value: object) -> str:
    # It goes into logs and terminals, so control characters must not get in.
    if type(value) is not str or not value.isprintable() or not value:
        raise _malformed("`module_id` is not printable text")
    if len(value) > MODULE_ID_LIMIT:
        raise _too_large("module_id", len(value), MODULE_ID_LIMIT)
    return value


def _timestamp(value: object) -> int:
    if type(value) is not int or not 0 < value < _TIMESTAMP_LIMIT:
        raise _malformed("`timestamp` is not a positive number of milliseconds")
    return value


def _pcrs(value: object) -> Mapping[int, bytes]:
    if type(value) is not dict or not 1 <= len(value) <= PCR_COUNT:
        raise _malformed(f"`pcrs` is not a map of 1 to {PCR_COUNT} registers")
    for index, content in value.items():
        if type(index) is not int or not 0 <= index < PCR_COUNT:
            raise _malformed(f"a PCR with the index {index!r:.40}")
        if type(content) is not bytes or len(content) not in _PCR_SIZES:
            raise _malformed(f"PCR{index} is not {PCR_SIZE} bytes")
    return MappingProxyType(dict(sorted(value.items())))


def _cabundle(value: object) -> tuple[bytes, ...]:
    if value is None or value == []:
        raise RefusedEvidenceError(
            Refusal.SELF_SIGNED, "it names no issuer: its certificate vouches for itself"
        )
    if type(value) is not list:
        raise _malformed("`cabundle` is not an array")
    if len(value) > CHAIN_LIMIT:
        raise _too_large("cabundle", len(value), CHAIN_LIMIT)
    return tuple(_octets(each, "cabundle", CERTIFICATE_LIMIT) for each in value)


def _optional(fields: dict[str, Any], name: str) -> bytes | None:
    value = fields.get(name)
    return None if value is None else _octets(value, name, FIELD_LIMIT, least=0)


def _octets(value: object, name: str, limit: int, *, least: int = 1) -> bytes:
    if type(value) is not bytes or len(value) < least:
        raise _malformed(f"`{name}` is not a byte string of at least {least} bytes")
    if len(value) > limit:
        raise _too_large(name, len(value), limit)
    return value


def _malformed(detail: str) -> RefusedEvidenceError:
    return RefusedEvidenceError(Refusal.MALFORMED, detail)


def _too_large(name: str, size: int, limit: int) -> RefusedEvidenceError:
    return RefusedEvidenceError(Refusal.TOO_LARGE, f"`{name}` has {size}, at most {limit}")
