"""The certificate authority of embedded attesters: a root and a signer, in one folder.

    root.pem    the root certificate: give it to verifiers
    root.key    its private key: not needed by nodes, keep it elsewhere
    signer.pem  the signer's certificate, issued by the root; PCR8 measures it
    signer.key  its private key: issues the short-lived certificates of documents

Every certificate says in its subject that it is a model and no hardware. Keys are on
P-384, PKCS #8 in PEM, in files of mode 0600 that are never overwritten.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from ...crypto.primitives import KeyHolder, wipe
from ...errors import UsageError
from ..keys import StrPath, read_private_file
from .roots import Root

__all__ = ["MODEL", "EmbeddedAuthority", "certificate_name", "issue"]

MODEL: Final = "MODEL, not hardware"
ROOT_LIFE: Final = timedelta(days=3650)
SIGNER_LIFE: Final = timedelta(days=730)

_BACKDATED: Final = timedelta(minutes=5)  # for the clocks of verifiers that are behind
_FILES: Final = ("root.pem", "root.key", "signer.pem", "signer.key")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class EmbeddedAuthority(KeyHolder):
    """What an attester needs of the authority: the root's certificate, and the signer."""

    root: Root
    signer: x509.Certificate
    signer_key: ec.EllipticCurvePrivateKey = field(repr=False)

    @staticmethod
    def create(folder: StrPath, *, now: float) -> Root:
        """Make an authority in `folder`, which is made if it is absent; return its root.

        `now` is the time in POSIX seconds, from which the certificates are valid.

        Raises:
            UsageError: one of the files exists, or cannot be written.
        """
        target = Path(folder)
        root_key, signer_key = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
        begin = datetime.fromtimestamp(int(now), UTC) - _BACKDATED
        root_name, signer_name = (certificate_name(f"sealfabric {role}") for role in _ROLES)
        root = issue(
            root_name, root_key, root_name, root_key, begin, begin + ROOT_LIFE, path_length=1
        )
        signer = issue(
            signer_name, signer_key, root_name, root_key, begin, begin + SIGNER_LIFE, path_length=0
        )
        contents = (_pem(root), _private_pem(root_key), _pem(signer), _private_pem(signer_key))
        _write_all(target, dict(zip(_FILES, contents, strict=True)))
        return Root.parse(_pem(root))

    @classmethod
    def load(cls, folder: StrPath) -> EmbeddedAuthority:
        """Return the authority in `folder`; the root's private key is not touched.

        Raises:
            UsageError: a file cannot be read, others may read the key, or the three
                do not belong together.
        """
        place = Path(folder)
        root = Root.load(place / "root.pem")
        signer = Root.load(place / "signer.pem").certificate
        key = _load_key(place / "signer.key")
        if signer.public_key() != key.public_key():
            raise UsageError(f"{place}: signer.key is not the key of signer.pem")
        try:
            signer.verify_directly_issued_by(root.certificate)
        except (ValueError, TypeError, InvalidSignature):
            raise UsageError(f"{place}: signer.pem was not issued by root.pem") from None
        return cls(root=root, signer=signer, signer_key=key)

    def check_clock(self, now: float) -> None:
        """Return if root and signer are valid at `now`, POSIX seconds.

        Raises:
            UsageError: one is not, so that every document would be refused.
        """
        for certificate in (self.root.certificate, self.signer):
            begin = certificate.not_valid_before_utc.timestamp()
            end = certificate.not_valid_after_utc.timestamp()
            if not begin <= now <= end:
                raise UsageError(
                    f"the certificate {certificate.subject.rfc4514_string()} is valid from "
                    f"{begin:.0f} to {end:.0f}, and this clock says {now:.0f}"
                )


_ROLES: Final = ("embedded root", "embedded signer")


def certificate_name(common_name: str) -> x509.Name:
    """Return a subject that says what it is not."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, MODEL),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{common_name} ({MODEL})"),
        ]
    )


def issue(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    begin: datetime,
    end: datetime,
    *,
    path_length: int | None = None,
) -> x509.Certificate:
    """Return a certificate for `key`: of an issuer if `path_length` is given, else of a leaf."""
    authority = path_length is not None
    usage = x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(authority, path_length), critical=True)
        .add_extension(usage, critical=True)
    )
    return builder.sign(issuer_key, SHA384())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    content = read_private_file(path)
    try:
        key = load_pem_private_key(bytes(content), password=None)
    except (ValueError, TypeError):
        raise UsageError(f"{path} is not an unencrypted private key in PEM") from None
    finally:
        wipe(content)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise UsageError(f"{path} is not a key on P-384")
    return key


def _write_all(folder: Path, files: dict[str, bytes]) -> None:
    """Write all files or none: what was written before a failure is removed again."""
    written: list[Path] = []
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, content in files.items():
            _write_new(folder / name, content, 0o600 if name.endswith(".key") else 0o644, written)
    except OSError as error:
        for path in written:
            with contextlib.suppress(OSError):
                path.unlink()
        if isinstance(error, FileExistsError):
            raise UsageError(f"{error.filename} exists already; it was left as it is") from None
        raise UsageError(f"{error.filename} cannot be written: {error.strerror}") from error


def _write_new(path: Path, content: bytes, mode: int, written: list[Path]) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    written.append(path)
    with open(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)  # whatever the umask says
        file.write(content)
        file.flush()
        os.fsync(descriptor)
