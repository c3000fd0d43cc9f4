"""The certificates that attestation may start from: Nitro's, and those of embedded attesters.

A root is trusted because it is pinned byte for byte, never because of what it says of
itself. Nitro's G1 root is shipped with the package; its SHA-256 is the one that AWS
publishes with "Verifying the root of trust".
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ...errors import UsageError
from ..keys import StrPath

__all__ = ["NITRO_FINGERPRINT", "Root", "nitro_root", "read_small_file"]

NITRO_FINGERPRINT: Final = "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"

_NITRO_FILE: Final = Path(__file__).with_name("nitro-root-g1.pem")
_PEM_START: Final = b"-----BEGIN CERTIFICATE-----"
_FILE_LIMIT: Final = 64 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class Root:
    """A pinned root certificate. Two are equal if their bytes are."""

    der: bytes = field(repr=False)
    certificate: x509.Certificate = field(repr=False, compare=False)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, 64 lower-case hexadecimal digits."""
        return hashlib.sha256(self.der).hexdigest()

    @property
    def subject(self) -> str:
        """The certificate's subject, as RFC 4514 writes it."""
        return self.certificate.subject.rfc4514_string()

    @classmethod
    def parse(cls, encoded: bytes) -> Root:
        """Return the one certificate in `encoded`, PEM or DER.

        Raises:
            UsageError: there is none, there are several, or it cannot be read.
        """
        try:
            if _PEM_START not in encoded:
                certificate = x509.load_der_x509_certificate(encoded)
            else:
                certificates = x509.load_pem_x509_certificates(encoded)
                if len(certificates) != 1:
                    raise UsageError(f"expected one root certificate, got {len(certificates)}")
                certificate = certificates[0]
            return cls(certificate.public_bytes(Encoding.DER), certificate)
        except ValueError as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"not a certificate: {error}") from None

    @classmethod
    def load(cls, path: StrPath) -> Root:
        """Return the root certificate in a file, PEM or DER.

        Raises:
            UsageError: the file cannot be read, or does not hold one certificate.
        """
        try:
            return cls.parse(read_small_file(path))
        except UsageError as error:
            raise UsageError(f"{os.fspath(path)}: {error}") from None


@cache
def nitro_root() -> Root:
    """Return AWS Nitro Enclaves' root certificate G1, as it is shipped with the package.

    Raises:
        UsageError: the shipped file is not that certificate.
    """
    root = Root.load(_NITRO_FILE)
    if root.fingerprint != NITRO_FINGERPRINT:
        raise UsageError(f"{_NITRO_FILE} is {root.fingerprint}, expected {NITRO_FINGERPRINT}")
    return root


def read_small_file(path: StrPath, limit: int = _FILE_LIMIT) -> bytes:
    """Return the content of a public file of at most `limit` bytes.

    Raises:
        UsageError: it cannot be read, is no regular file, or is larger.
    """
    try:
        # O_NONBLOCK: opening a FIFO must not hang; regular files ignore it.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UsageError(f"{os.fspath(path)} is not a regular file")
            content = file.read(limit + 1)
    except OSError as error:
        raise UsageError(f"{os.fspath(path)} cannot be read: {error.strerror}") from error
    if len(content) > limit:
        raise UsageError(f"{os.fspath(path)} is larger than {limit} bytes")
    return content
