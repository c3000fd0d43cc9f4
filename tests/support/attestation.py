"""Attestation documents for tests: genuine ones, and forgeries with exactly one defect.

The certificates here are made with `cryptography` alone, not with the package's own
authority, so that what the package issues and what it accepts are tested apart.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from transport.identity.attestation import UNCHECKED, Attested, Root, Verifier

from .vectors import vectors

NOW = 1_800_000_000.0  # 2027-01-15, the time of all documents made here
HOUR = timedelta(hours=1)
ANY = {"public_key": UNCHECKED, "user_data": UNCHECKED, "nonce": UNCHECKED}
USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
    *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


@cache
def manifest() -> tuple[dict[str, Any], ...]:
    """The entries of the shared documents."""
    return tuple(json.loads((vectors("nitro") / "manifest.json").read_text(encoding="utf-8")))


def entries(kind: str) -> list[dict[str, Any]]:
    return [entry for entry in manifest() if entry["kind"] == kind]


def document_of(entry: dict[str, Any]) -> bytes:
    return Path(vectors("nitro") / entry["file"]).read_bytes()


def time_of(entry: dict[str, Any]) -> float:
    return float(entry["timestamp_ms"]) / 1000


def accept(evidence: bytes, verifier: Verifier) -> Attested:
    return verifier.verify(evidence, public_key=UNCHECKED, user_data=UNCHECKED, nonce=UNCHECKED)


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC)


def name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


@dataclass(frozen=True)
class Certified:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: Any

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def root(self) -> Root:
        return Root.parse(self.der)


def certify(
    common: str,
    issuer: Certified | None = None,
    *,
    ca: bool = True,
    path_length: int | None = None,
    usages: tuple[str, ...] | None = ("key_cert_sign",),
    begin: float = NOW - 3600,
    end: float = NOW + 3600,
    key: Any = None,
    digest: Any = None,
    constraints: bool = True,
    extra: x509.ExtensionType | None = None,
    claimed_issuer: str | None = None,
) -> Certified:
    """Return a certificate with whatever is asked for, right or wrong."""
    own = key or ec.generate_private_key(ec.SECP384R1())
    signer = own if issuer is None else issuer.key
    issuer_name = name(common) if issuer is None else issuer.certificate.subject
    if claimed_issuer is not None:
        issuer_name = name(claimed_issuer)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(common))
        .issuer_name(issuer_name)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment(begin))
        .not_valid_after(moment(end))
    )
    if constraints:
        builder = builder.add_extension(x509.BasicConstraints(ca, path_length), critical=True)
    if usages is not None:
        allowed = {each: each in usages for each in USAGES}
        builder = builder.add_extension(x509.KeyUsage(**allowed), critical=True)
    if extra is not None:
        builder = builder.add_extension(extra, critical=True)
    return Certified(builder.sign(signer, digest or SHA384()), own)


def leaf(issuer: Certified, **changes: Any) -> Certified:
    return certify("leaf", issuer, **{"ca": False, "usages": ("digital_signature",), **changes})


def fields(*chain: Certified, **changes: Any) -> dict[str, Any]:
    """The payload of a document whose chain is `chain`, the root first, the leaf last."""
    return {
        "module_id": "i-0-enc0",
        "digest": "SHA384",
        "timestamp": int(NOW * 1000),
        "pcrs": {index: bytes([index + 1]) * 48 for index in range(3)},
        "certificate": chain[-1].der,
        "cabundle": [each.der for each in chain[:-1]],
        "public_key": None,
        "user_data": None,
        "nonce": None,
        **changes,
    }


def signed(
    payload: bytes, key: ec.EllipticCurvePrivateKey, protected: bytes | None = None
) -> bytes:
    """The envelope around `payload`, put together by hand."""
    header = bytes.fromhex("a1013822") if protected is None else protected
    covered = cbor2.dumps(["Signature1", header, b"", payload])
    r, s = decode_dss_signature(key.sign(covered, ec.ECDSA(SHA384())))
    signature = r.to_bytes(48, "big") + s.to_bytes(48, "big")
    return cbor2.dumps([header, {}, payload, signature])


@cache
def authority() -> tuple[Certified, Certified, Certified]:
    """A sound chain: root, issuer, leaf."""
    root = certify("test root", path_length=1)
    issuer = certify("test issuer", root, path_length=0)
    return root, issuer, leaf(issuer)


def evidence(**changes: Any) -> bytes:
    """A sound document, but for `changes` to its payload's fields; None removes nothing."""
    chain = authority()
    return signed(cbor2.dumps(fields(*chain, **changes)), chain[-1].key)


def verifier(policy: Any = None, *, now: float = NOW, **arguments: Any) -> Verifier:
    """A verifier that trusts the root of `authority`."""
    roots = arguments.pop("roots", [authority()[0].root])
    return Verifier(policy, clock=lambda: now, roots=roots, **arguments)
