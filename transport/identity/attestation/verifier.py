"""Judges attestation documents: `Verifier`, and what a document that passed says, `Attested`.

The order of checks: shape and limits, the chain to a pinned root, its times by the
verifier's own clock, the signature over the original bytes, then what the document must
be bound to and the policy. Each refusal has its own reason (`Refusal`); nothing that a
document holds is believed, or returned, before its signature has verified.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Literal, TypeAlias

from ...errors import UsageError
from . import cose, document
from .chain import CertificateSummary, Chain, verify_chain
from .document import Document
from .policy import CLOCK_SKEW, AttestationPolicy
from .refusal import Refusal, RefusedEvidenceError
from .roots import NITRO_FINGERPRINT, Root, nitro_root

__all__ = ["UNCHECKED", "Attested", "Clock", "Verifier"]

Clock: TypeAlias = Callable[[], float]
"""Returns the time, POSIX seconds; `time.time` outside of tests."""

CHAINS_REMEMBERED: Final = 64  # verified chains a verifier keeps; one is about 4 KiB
_SIGNER: Final = 8  # the register that holds the signer's certificate


class _Unchecked(Enum):
    UNCHECKED = "unchecked"


UNCHECKED: Final = _Unchecked.UNCHECKED
"""In place of a value that a document must be bound to: any is accepted, and none."""

Expected: TypeAlias = bytes | Literal[_Unchecked.UNCHECKED] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attested:
    """What a document that verified says. Times are POSIX seconds."""

    module_id: str
    timestamp: float
    digest: str
    pcrs: Mapping[int, bytes]
    debug: bool  # PCR0, 1 and 2 are zero
    signer: bytes | None  # PCR8, which measures the signer; None where it is zero
    hardware: bool  # the chain starts at Nitro's own root; if not, it is a model
    root: str  # SHA-256 of the root, hexadecimal
    expires: float  # when the first certificate of the chain does
    chain: tuple[CertificateSummary, ...] = field(repr=False)  # the root first
    public_key: bytes | None = field(repr=False)
    user_data: bytes | None = field(repr=False)
    nonce: bytes | None = field(repr=False)


class Verifier:
    """Verifies documents against a policy, or for their authenticity alone.

    `clock` returns POSIX seconds. `roots` replace those of the policy; without either,
    Nitro's root is the one. `allow_debug` allows debug mode where the policy does not.
    Not safe to share between threads without a lock: it remembers chains.

    Raises:
        UsageError: an argument is malformed, or a root is not valid by this clock, which
            is then wrong, or the root is.
    """

    def __init__(
        self,
        policy: AttestationPolicy | None,
        *,
        clock: Clock,
        roots: Sequence[Root] | None = None,
        allow_debug: bool = False,
    ) -> None:
        if policy is not None and not isinstance(policy, AttestationPolicy):
            raise UsageError(f"a policy is an AttestationPolicy, got {type(policy).__name__}")
        if roots is not None and not roots:
            raise UsageError("a verifier without roots can accept nothing")
        self._policy = policy
        self._clock = clock
        self._skew = CLOCK_SKEW if policy is None else policy.clock_skew
        self._allow_debug = allow_debug or (policy is not None and policy.allow_debug)
        own = (nitro_root(),) if policy is None else policy.roots
        self._roots = own if roots is None else tuple(roots)
        self._chains: OrderedDict[bytes, Chain] = OrderedDict()

    @property
    def policy(self) -> AttestationPolicy | None:
        """The policy it applies; None where it judges authenticity alone."""
        return self._policy

    def check_clock(self) -> None:
        """Return if every root is valid now; a node asks before its first link.

        Raises:
            UsageError: one is not: the clock is wrong, or the root's time is over.
        """
        now = self._clock()
        for root in self._roots:
            begin = root.certificate.not_valid_before_utc.timestamp()
            end = root.certificate.not_valid_after_utc.timestamp()
            if not begin - self._skew <= now <= end:
                raise UsageError(
                    f"the root {root.subject} is valid from {begin:.0f} to {end:.0f}, and this "
                    f"clock says {now:.0f}: nothing could verify"
                )

    def verify(
        self, evidence: bytes, *, public_key: Expected, user_data: Expected, nonce: Expected
    ) -> Attested:
        """Return what `evidence` attests, if it satisfies the policy now.

        Each of the three is what the document must hold: bytes, None where it must
        hold none, or `UNCHECKED`. They have no default, for what is left out by
        mistake would be an open door.

        Raises:
            RefusedEvidenceError: it does not; nothing else is raised for any input.
        """
        if not evidence:
            raise RefusedEvidenceError(
                Refusal.MISSING, "no evidence came, and a policy asks for it"
            )
        envelope = cose.parse(evidence)
        claims = document.parse(envelope.payload)
        envelope.check_headers()
        now = self._clock()
        chain = self._chain_of(claims)
        chain.check_times(now, skew=self._skew)
        envelope.verify(chain.leaf_key)
        _check_binding(Refusal.PUBLIC_KEY, claims.public_key, public_key)
        _check_binding(Refusal.USER_DATA, claims.user_data, user_data)
        _check_binding(Refusal.NONCE, claims.nonce, nonce)
        self._check_freshness(claims, now)
        if claims.debug and not self._allow_debug:
            raise RefusedEvidenceError(
                Refusal.DEBUG, "PCR0, 1 and 2 are zero: whoever runs it can look into it"
            )
        self._check_registers(claims)
        return _attested(claims, chain)

    def _chain_of(self, claims: Document) -> Chain:
        """Verify the chain, or remember that it has been: only its times can change."""
        name = hashlib.sha256()
        for der in (*claims.cabundle, claims.certificate):
            name.update(len(der).to_bytes(4, "big") + der)
        key = name.digest()
        chain = self._chains.pop(key, None)
        if chain is None:
            chain = verify_chain(claims.cabundle, claims.certificate, self._roots)
        self._chains[key] = chain
        if len(self._chains) > CHAINS_REMEMBERED:
            self._chains.popitem(last=False)
        return chain

    def _check_freshness(self, claims: Document, now: float) -> None:
        age = now - claims.timestamp_ms / 1000
        if age < -self._skew:
            raise RefusedEvidenceError(
                Refusal.FROM_THE_FUTURE, f"made {-age:.1f} s ahead of this clock"
            )
        if self._policy is not None and age > self._policy.max_age:
            raise RefusedEvidenceError(
                Refusal.STALE, f"made {age:.1f} s ago, at most {self._policy.max_age:g} s allowed"
            )

    def _check_registers(self, claims: Document) -> None:
        expected = {} if self._policy is None else self._policy.pcrs
        for index, accepted in expected.items():
            found = claims.pcrs.get(index)
            if found is None:
                raise RefusedEvidenceError(Refusal.PCR, f"PCR{index} is absent")
            if found not in accepted:
                raise RefusedEvidenceError(
                    Refusal.PCR, f"PCR{index} is {found.hex()}, none of {len(accepted)} accepted"
                )


def _check_binding(reason: Refusal, found: bytes | None, expected: Expected) -> None:
    if expected is UNCHECKED or (expected is None and found is None):
        return
    if expected is None or found is None or not hmac.compare_digest(found, expected):
        what = "holds none" if found is None else "holds another" if expected else "must hold none"
        raise RefusedEvidenceError(reason, f"`{reason.value}`: the document {what}")


def _attested(claims: Document, chain: Chain) -> Attested:
    signer = claims.pcrs.get(_SIGNER)
    return Attested(
        module_id=claims.module_id,
        timestamp=claims.timestamp_ms / 1000,
        digest=document.DIGEST,
        pcrs=claims.pcrs,
        debug=claims.debug,
        signer=signer if signer is not None and any(signer) else None,
        hardware=chain.root.fingerprint == NITRO_FINGERPRINT,
        root=chain.root.fingerprint,
        expires=min(certificate.not_after for certificate in chain.certificates),
        chain=chain.certificates,
        public_key=claims.public_key,
        user_data=claims.user_data,
        nonce=claims.nonce,
    )
