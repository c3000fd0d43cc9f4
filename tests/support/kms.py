"""A small world for tests of key services: a clock, programs that are attested, and a store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from transport.identity.attestation import (
    AttestationPolicy,
    EmbeddedAttester,
    EmbeddedAuthority,
)
from transport.identity.kms import (
    AttestedKeys,
    EmbeddedKeyService,
    ExternalPolicy,
    KeyFolder,
    KeyStore,
    Purpose,
    Unlocking,
)

NOW = 1_780_000_000.0
PASSPHRASE = "correct horse battery staple"
QUICK = 10  # log2 of scrypt's N: tests need no strength
KEY = "model-weights"
CONTEXT = {"model": "m1", "shard": "7"}
_recipients: list[rsa.RSAPrivateKey] = []


@dataclass
class Clock:
    """The time, as a test sets it."""

    now: float = NOW

    def __call__(self) -> float:
        return self.now


@dataclass
class World:
    """An approved program, a changed one, and a service that tells them apart."""

    path: Path
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.script = self.path / "approved.py"
        self.script.write_text("print('approved')\n")
        EmbeddedAuthority.create(self.path / "authority", now=self.clock.now)
        self.attester = self.program(self.script)
        self.folder = KeyFolder.create(
            self.path / "keys", Unlocking.passphrase(PASSPHRASE), clock=self.clock, cost=QUICK
        )
        self.folder.create_key(KEY, self.policy())
        self.service = self.new_service()

    @property
    def store(self) -> KeyStore:
        return self.folder.store

    def program(self, script: Path, *, authority: str = "authority", debug: bool = False):
        """An attester for the program in `script`."""
        return EmbeddedAttester.load(
            self.path / authority, script=script, clock=self.clock, debug=debug
        )

    def changed_program(self) -> EmbeddedAttester:
        script = self.path / "changed.py"
        script.write_text("print('changed')\n")
        return self.program(script)

    def policy(self, **settings: object) -> AttestationPolicy:
        """That the approved program runs."""
        return AttestationPolicy(
            {0: [self.attester.pcrs[0]]}, roots=[self.attester.root], **settings
        )

    def new_service(self) -> EmbeddedKeyService:
        """A service over the same folder: what a restart makes."""
        return EmbeddedKeyService(self.store, self.folder.audit, clock=self.clock)

    def keys(self) -> AttestedKeys:
        """What the approved program asks with."""
        return AttestedKeys(self.service, self.attester)

    def add_external(self, key_id: str = "aws", **policy: tuple[str, ...]) -> None:
        """A key for the XKS proxy."""
        self.folder.create_key(key_id, ExternalPolicy(**policy))
        assert self.store.record(key_id).purpose is Purpose.EXTERNAL


@contextmanager
def world(path: Path) -> Iterator[World]:
    """A world in `path`, closed at the end."""
    made = World(path)
    try:
        yield made
    finally:
        made.folder.close()


def recipient() -> rsa.RSAPrivateKey:
    """An RSA-2048 key: one for all tests that do not care which, since making one is slow."""
    if not _recipients:
        _recipients.append(rsa.generate_private_key(65537, 2048))
    return _recipients[0]


def spki(key: rsa.RSAPrivateKey) -> bytes:
    """Its public key, as evidence bears it."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
