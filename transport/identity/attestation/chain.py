"""The certificate chain of an attestation document, from a pinned root to the signing leaf.

Path validation after RFC 5280 section 6.1, narrowed to what attestation uses: ECDSA on
P-384 with SHA-384 throughout, basicConstraints, keyUsage and path lengths enforced, any
other critical extension refused. Revocation is not checked: leaves live for hours, and
nothing here opens a connection. Times are an argument; a chain that was verified once is
asked for its times again on every use.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtensionOID, SignatureAlgorithmOID

from .refusal import Refusal, RefusedEvidenceError
from .roots import Root

__all__ = ["CertificateSummary", "Chain", "summaries", "verify_chain"]

_UNDERSTOOD: Final = frozenset({ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE})


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateSummary:
    """What may be shown of one certificate. Times are POSIX seconds."""

    subject: str  # RFC 4514
    not_before: float
    not_after: float
    fingerprint: str  # SHA-256, hexadecimal

    def __str__(self) -> str:
        begin, end = (
            datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            for moment in (self.not_before, self.not_after)
        )
        return f"{self.subject}, {begin} to {end}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A chain whose signatures, usages and lengths hold; its times depend on the moment."""

    root: Root
    certificates: tuple[CertificateSummary, ...]  # the root first, the leaf last
    leaf_key: EllipticCurvePublicKey = field(repr=False)

    def check_times(self, now: float, *, skew: float) -> None:
        """Return if every certificate is valid at `now`, POSIX seconds.

        `skew` allows for a clock that is behind the issuer's. Nothing makes up for
        a certificate that has expired.

        Raises:
            RefusedEvidenceError: one is not yet valid, or no longer.
        """
        for certificate in self.certificates:
            if now + skew < certificate.not_before:
                raise RefusedEvidenceError(Refusal.NOT_YET_VALID, str(certificate))
            if now > certificate.not_after:
                raise RefusedEvidenceError(Refusal.EXPIRED, str(certificate))


def verify_chain(cabundle: Sequence[bytes], leaf: bytes, roots: Sequence[Root]) -> Chain:
    """Return the chain of `leaf`, if `cabundle` leads to it from one of `roots`.

    All certificates are DER, `cabundle` in the order root, …, issuer of the leaf.

    Raises:
        RefusedEvidenceError: it does not; times are not examined here.
    """
    root = next((root for root in roots if root.der == cabundle[0]), None)
    if root is None:
        raise RefusedEvidenceError(
            Refusal.FOREIGN_ROOT, f"its chain starts at SHA-256 {sha256(cabundle[0]).hexdigest()}"
        )
    # The root is judged like any other issuer, though its signature is beside the point.
    links = [_Link.read(der) for der in (*cabundle, leaf)]
    for depth, issuer in enumerate(links[:-1]):
        issuer.check_may_issue(intermediates_below=len(links) - 2 - depth)
        links[depth + 1].check_issued_by(issuer)
    links[-1].check_may_sign()
    return Chain(
        root=root,
        certificates=tuple(link.summary for link in links),
        leaf_key=links[-1].key,
    )


def summaries(certificates: Sequence[bytes]) -> tuple[CertificateSummary, ...]:
    """Return what the readable ones among `certificates` (DER) say; nothing is verified."""
    found = []
    for der in certificates:
        with contextlib.suppress(Exception):  # as in `_Link.read`; unreadable ones are left out
            found.append(_summary_of(x509.load_der_x509_certificate(der)))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Link:
    """One certificate of a chain, read once."""

    certificate: x509.Certificate
    key: EllipticCurvePublicKey
    usage: x509.KeyUsage
    constraints: x509.BasicConstraints | None
    summary: CertificateSummary

    @classmethod
    def read(cls, der: bytes) -> _Link:
        try:
            certificate = x509.load_der_x509_certificate(der)
            if der[-len(certificate.signature) - 1]:
                raise _bad("a certificate's signature has unused bits")  # the library takes them
            return cls._examine(certificate)
        except RefusedEvidenceError:
            raise
        except Exception as error:
            # The library has no common error for a damaged certificate, and it reads
            # lazily, so damage may show whenever a part is asked for.
            raise _bad(f"a certificate cannot be used: {type(error).__name__}") from None

    @classmethod
    def _examine(cls, certificate: x509.Certificate) -> _Link:
        summary = _summary_of(certificate)
        key = certificate.public_key()
        if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP384R1):
            raise _bad(f"{summary.subject} has a key that is not on P-384")
        if certificate.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA384:
            raise _bad(f"{summary.subject} is not signed with ECDSA and SHA-384")
        if certificate.version is not x509.Version.v3:
            raise _bad(f"{summary.subject} is not an X.509 version 3 certificate")
        extensions = certificate.extensions
        for extension in extensions:
            if extension.critical and extension.oid not in _UNDERSTOOD:
                raise _bad(f"{summary.subject} has the critical extension {extension.oid}")
        try:
            constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        except x509.ExtensionNotFound:
            constraints = None
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        return cls(certificate, key, usage, constraints, summary)

    def check_may_issue(self, *, intermediates_below: int) -> None:
        constraints = self.constraints
        if constraints is None or not constraints.ca or not self.usage.key_cert_sign:
            raise _broken(f"{self.summary.subject} must not issue certificates")
        allowed = constraints.path_length
        if allowed is not None and allowed < intermediates_below:
            raise _broken(
                f"{self.summary.subject} allows {allowed} issuers below it, "
                f"there are {intermediates_below}"
            )

    def check_may_sign(self) -> None:
        if self.constraints is not None and self.constraints.ca:
            raise _broken(f"{self.summary.subject} is an issuer, not a signer of documents")
        if not self.usage.digital_signature:
            raise _broken(f"{self.summary.subject} must not sign documents")

    def check_issued_by(self, issuer: _Link) -> None:
        try:
            self.certificate.verify_directly_issued_by(issuer.certificate)
        except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
            # By name or by signature; the latter also if its algorithm identifiers differ.
            raise _broken(
                f"{self.summary.subject} was not issued by {issuer.summary.subject}"
            ) from None


def _summary_of(certificate: x509.Certificate) -> CertificateSummary:
    return CertificateSummary(
        subject=_printable(certificate.subject),
        not_before=certificate.not_valid_before_utc.timestamp(),
        not_after=certificate.not_valid_after_utc.timestamp(),
        fingerprint=certificate.fingerprint(SHA256()).hex(),
    )


def _printable(name: x509.Name) -> str:
    # A name comes from the peer and goes into this side's log.
    text = name.rfc4514_string()
    return text if text.isprintable() else repr(text)


def _bad(detail: str) -> RefusedEvidenceError:
    return RefusedEvidenceError(Refusal.CERTIFICATE, detail)


def _broken(detail: str) -> RefusedEvidenceError:
    return RefusedEvidenceError(Refusal.CHAIN, detail)
