"""Nitro's root is the one that AWS publishes, and it travels with the package."""

from __future__ import annotations

import hashlib
import os
import tomllib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from support.attestation import authority
from support.source_tree import PROJECT_ROOT
from support.vectors import vectors
from transport.errors import UsageError
from transport.identity.attestation import NITRO_FINGERPRINT, Root, nitro_root

PUBLISHED = "641A0321A3E244EFE456463195D606317ED7CDCC3C1756E09893F3C68F79BB5B"
SHIPPED = "transport/identity/attestation/nitro-root-g1.pem"


def test_the_shipped_root_is_the_published_one() -> None:
    root = nitro_root()
    assert root.fingerprint == NITRO_FINGERPRINT == PUBLISHED.lower()
    assert hashlib.sha256(root.der).hexdigest() == NITRO_FINGERPRINT
    assert root.subject == "CN=aws.nitro-enclaves,OU=AWS,O=Amazon,C=US"
    assert root == Root.load(vectors("nitro") / "root.pem")


def test_the_root_is_package_data() -> None:
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    data = project["tool"]["setuptools"]["package-data"]
    assert "nitro-root-g1.pem" in data["transport.identity.attestation"]
    assert (PROJECT_ROOT / SHIPPED).is_file()


def test_a_root_is_read_from_pem_or_der(tmp_path: Path) -> None:
    certificate = authority()[0].certificate
    for encoding in (Encoding.PEM, Encoding.DER):
        path = tmp_path / "root"
        path.write_bytes(certificate.public_bytes(encoding))
        assert Root.load(path) == authority()[0].root


def test_a_root_file_holds_one_certificate(tmp_path: Path) -> None:
    pem = authority()[0].certificate.public_bytes(Encoding.PEM)
    path = tmp_path / "root.pem"
    for content, complaint in (
        (pem + pem, "expected one root certificate, got 2"),
        (b"", "not a certificate"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "not a certificate"),
        (b"x" * 70_000, "larger than 65536 bytes"),
    ):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=complaint):
            Root.load(path)
    with pytest.raises(UsageError, match="cannot be read"):
        Root.load(tmp_path / "absent")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="not a regular file"):
        Root.load(tmp_path / "pipe")
