"""Whom a node trusts: pinned public keys, a cluster secret, or both.

Invariants:

- Everything given must hold. There is no empty trust, and a condition that is not
  understood is refused rather than ignored.
- The cluster secret itself is not kept. What links need is derived from it once
  (HKDF-SHA-512, RFC 5869), with a label for each purpose.
- Comparisons with pinned keys take constant time.

The pre-shared key follows Noise revision 34 section 9, and is 32 zero bytes where
there is no secret, as in WireGuard; the caller key is the key of WireGuard's mac1
(Donenfeld, "WireGuard", NDSS 2017, sections 5.2 and 5.4.4).
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NoReturn

from ..crypto.primitives import (
    X25519_LEN,
    KeyHolder,
    hkdf_sha512,
    hkdf_sha512_expand,
    hkdf_sha512_extract,
    wipe,
)
from ..errors import UsageError
from .evidence import EvidenceExchange, NoEvidence
from .keys import StrPath, read_private_file
from .trust_file import TrustFile

if TYPE_CHECKING:  # attestation is imported where it is used: most nodes need none of it
    from .attestation import AttestationPolicy, Attester

__all__ = ["SECRET_MIN", "Trust", "check_name"]

SECRET_MIN = 32  # bytes
NAME_LIMIT = 255  # bytes of UTF-8

_PSK_LABEL = b"sealfabric 1 psk"
_CALLER_LABEL = b"sealfabric 1 caller key"
_SECRET_LABEL = b"sealfabric 1 cluster secret"
_PUBLIC_LABEL = b"sealfabric 1 responder public key"
_OPEN_LABEL = b"sealfabric 1 open caller key"
_POLICY_LABEL = b"sealfabric 1 policy: none"
_KEY_LEN = 32


class Trust(KeyHolder):
    """Which peers may link, and what both ends must know to do so.

    `peers` maps names to 32-byte static public keys: only these names may link, each
    with its key. `secret` (at least 32 bytes) is shared by the whole cluster: every
    peer must know it, and whoever knows it may, without `peers`, bear any name.
    `policy` is what every peer must attest of the program that it runs. `attester`
    speaks for this node to peers that have a policy; it is no condition of its own.

    Immutable, and safe to share between threads.

    Raises:
        UsageError: none of the three conditions is given, or one is malformed.
    """

    __slots__ = ("_attester", "_caller_prk", "_peers", "_policy", "_psk")

    _attester: Attester | None
    _caller_prk: bytes | None
    _peers: Mapping[str, bytes] | None
    _policy: AttestationPolicy | None
    _psk: bytes

    def __init__(
        self,
        peers: Mapping[str, bytes] | None = None,
        secret: bytes | bytearray | None = None,
        policy: AttestationPolicy | None = None,
        attester: Attester | None = None,
    ) -> None:
        if peers is None and secret is None and policy is None:
            raise UsageError("Trust needs `peers`, a `secret` or a `policy`, or several of them")
        _check_attestation(policy, attester)
        psk, caller_prk = bytes(_KEY_LEN), None
        if secret is not None:
            _check_secret(secret, "the secret")
            prk = hkdf_sha512_extract(_SECRET_LABEL, secret)
            psk, caller_prk = hkdf_sha512_expand(prk, _PSK_LABEL, _KEY_LEN), prk
        checked = None if peers is None else MappingProxyType(_checked_peers(peers))
        object.__setattr__(self, "_peers", checked)
        object.__setattr__(self, "_psk", psk)
        object.__setattr__(self, "_caller_prk", caller_prk)
        object.__setattr__(self, "_policy", policy)
        object.__setattr__(self, "_attester", attester)

    @classmethod
    def load(cls, path: StrPath) -> Trust:
        """Return the trust that a JSON file describes; docs/reference/trust-file.md has its keys.

        `peers` or `ranks`, `secret_file`, `policy_file`, at least one of these, and
        `attester`. Relative paths start at the file's folder.

        Raises:
            UsageError: the file cannot be read, others may write to it, or its
                content or a file that it names is not as described, or there is no
                Nitro hardware where its attester is to be that.
        """
        return cls._read(path, None)

    @classmethod
    def _read(cls, path: StrPath, secret_file: str | None) -> Trust:
        document = TrustFile.read(path)
        if document.secret_file is not None:
            if secret_file is not None:
                raise UsageError(
                    f"{os.fspath(path)} names a `secret_file`, and SEALFABRIC_SECRET_FILE is set"
                )
            secret_file = document.secret_file
        return cls(
            document.peers,
            None if secret_file is None else cls.load_secret(secret_file),
            document.policy(),
            document.attester(),
        )

    @classmethod
    def from_environment(cls) -> Trust:
        """Return the trust that SEALFABRIC_TRUST and SEALFABRIC_SECRET_FILE name.

        The first is a file for `load`, the second one for `load_secret`; where both
        are set, both must hold.

        Raises:
            UsageError: neither is set, a file is not usable, or each gives a secret.
        """
        trust_file = os.environ.get("SEALFABRIC_TRUST")
        secret_file = os.environ.get("SEALFABRIC_SECRET_FILE")
        if trust_file:
            return cls._read(trust_file, secret_file)
        if secret_file:
            return cls(secret=cls.load_secret(secret_file))
        raise UsageError(
            "no trust is configured: set SEALFABRIC_SECRET_FILE to the path of a cluster secret "
            "(sealfabric keygen --secret PATH), or SEALFABRIC_TRUST to that of a trust file"
        )

    @staticmethod
    def load_secret(path: StrPath) -> bytes:
        """Return the cluster secret in a file: all of its bytes, a final newline included.

        Raises:
            UsageError: the file cannot be read, others may access it, or it holds
                fewer than 32 bytes or more than 4096.
        """
        content = read_private_file(path)
        try:
            _check_secret(content, os.fspath(path))
            return bytes(content)
        finally:
            wipe(content)

    @property
    def psk(self) -> bytes:
        """The 32-byte pre-shared key of the handshake; zeros where there is no secret."""
        return self._psk

    @property
    def policy_hash(self) -> bytes:
        """SHA-256 of the attestation policy in force, or of none, for the prologue."""
        if self._policy is not None:
            return self._policy.hash
        return hashlib.sha256(_POLICY_LABEL).digest()

    @property
    def policy(self) -> AttestationPolicy | None:
        """What every peer must attest, or None."""
        return self._policy

    @property
    def attester(self) -> Attester | None:
        """What speaks for this node, or None."""
        return self._attester

    def evidence(self, clock: Callable[[], float]) -> EvidenceExchange:
        """Return the evidence step of this node's links; `clock` returns POSIX seconds.

        An attester without a clock of its own is given this one.

        Raises:
            UsageError: this node's own attester does not work, or by `clock` a root of
                the policy is not valid, so that no link could ever be made.
        """
        if self._policy is None and self._attester is None:
            return NoEvidence()
        from .attestation import AttestedEvidence, EmbeddedAttester, Verifier

        attester = self._attester
        if isinstance(attester, EmbeddedAttester):
            attester = attester.timed_by(clock)
        verifier = None if self._policy is None else Verifier(self._policy, clock=clock)
        exchange = AttestedEvidence(attester, verifier)
        exchange.check(clock)
        return exchange

    def caller_key(self, responder_name: str, responder_public_key: bytes | None) -> bytes:
        """Return the 32-byte key of the MAC on a caller's first message.

        It rests on the secret where there is one, else on the responder's static
        public key, which a legitimate caller has pinned. It proves too little to
        admit anyone: it only spares the responder work for strangers. Where there is
        only a policy, callers need to know nothing, and the key is known to all.

        Raises:
            UsageError: there is neither a secret nor `responder_public_key`, or an
                argument is malformed.
        """
        name = check_name(responder_name).encode("utf-8")
        if self._caller_prk is not None:
            return hkdf_sha512_expand(self._caller_prk, _CALLER_LABEL + name, _KEY_LEN)
        if self._peers is None:
            zeros = bytes(_KEY_LEN)
            return hkdf_sha512(zeros, salt=_OPEN_LABEL, info=_CALLER_LABEL + name, length=_KEY_LEN)
        if responder_public_key is None:
            raise UsageError(f"without a secret, the public key of {responder_name!r} is needed")
        key = _check_public_key(responder_public_key, responder_name)
        return hkdf_sha512(key, salt=_PUBLIC_LABEL, info=_CALLER_LABEL + name, length=_KEY_LEN)

    def pinned(self, name: str) -> bytes | None:
        """Return the public key that `peers` gives `name`, or None."""
        return None if self._peers is None else self._peers.get(name)

    def knows(self, name: str) -> bool:
        """Return whether a peer called `name` could be admitted, its key still unseen."""
        return _name_is_valid(name) and (self._peers is None or name in self._peers)

    def admits(self, name: str, public_key: bytes) -> bool:
        """Return whether a peer called `name` may link with this static public key.

        Knowledge of the secret is not examined here: the handshake proves it. A
        name that no node can bear is admitted by nobody.
        """
        if len(public_key) != X25519_LEN or not _name_is_valid(name):
            return False
        if self._peers is None:
            return True
        expected = self._peers.get(name)
        return expected is not None and hmac.compare_digest(expected, public_key)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"Trust is immutable; {name} cannot be set")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"Trust is immutable; {name} cannot be deleted")

    def __repr__(self) -> str:
        peers = "any name" if self._peers is None else f"{len(self._peers)} peers"
        secret = "no secret" if self._caller_prk is None else "with a secret"
        policy = "" if self._policy is None else ", with a policy"
        return f"<Trust {peers}, {secret}{policy}>"


def check_name(name: str) -> str:
    """Return `name`, a node's: 1 to 255 bytes of UTF-8, all printable.

    Raises:
        UsageError: it is not.
    """
    if not _name_is_valid(name):
        raise UsageError(
            f"a node's name is 1 to {NAME_LIMIT} bytes of printable UTF-8, got {name!r:.80}"
        )
    return name


def _name_is_valid(name: object) -> bool:
    # Lone surrogates, which UTF-8 cannot hold, are not printable either.
    if not isinstance(name, str) or not name.isprintable():
        return False
    return 1 <= len(name.encode("utf-8")) <= NAME_LIMIT


def _check_public_key(key: object, name: str) -> bytes:
    if not isinstance(key, (bytes, bytearray)):
        raise UsageError(f"the public key of {name!r} must be bytes, got {type(key).__name__}")
    if len(key) != X25519_LEN:
        raise UsageError(f"the public key of {name!r} is {len(key)} bytes long, not {X25519_LEN}")
    return bytes(key)


def _check_secret(secret: object, what: str) -> None:
    if not isinstance(secret, (bytes, bytearray)):
        raise UsageError(f"{what} must be bytes, got {type(secret).__name__}")
    if len(secret) < SECRET_MIN:
        raise UsageError(f"{what} holds {len(secret)} bytes, at least {SECRET_MIN} are needed")


def _checked_peers(peers: Mapping[str, bytes]) -> dict[str, bytes]:
    if not isinstance(peers, Mapping):
        raise UsageError(f"`peers` must map names to public keys, got {type(peers).__name__}")
    return {check_name(name): _check_public_key(key, name) for name, key in peers.items()}


def _check_attestation(policy: object, attester: object) -> None:
    if policy is not None:
        from .attestation import AttestationPolicy

        if not isinstance(policy, AttestationPolicy):
            raise UsageError(f"`policy` must be an AttestationPolicy, got {type(policy).__name__}")
    if attester is not None and not callable(getattr(attester, "evidence", None)):
        raise UsageError(f"`attester` must be an Attester, got {type(attester).__name__}")
