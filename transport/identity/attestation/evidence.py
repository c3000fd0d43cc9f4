"""Attestation as the evidence of a link: `AttestedEvidence` (docs/spec.md 4.5).

Either half may be absent, so that only one side attests: without an attester this
node's evidence is empty; without a verifier it has no policy, and what the peer sends is
neither judged nor believed. Where there is a verifier nothing fails open: empty evidence is
refused like any other that does not satisfy the policy.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping

from ...errors import HandshakeError, TransportError, UsageError
from ..evidence import EvidenceBinding
from . import cose, document
from .attester import Attester
from .refusal import Refusal, RefusedEvidenceError
from .verifier import Attested, Clock, Verifier

__all__ = ["AttestedEvidence"]

log = logging.getLogger("transport")


class AttestedEvidence:
    """This node's attester, its verifier, or both, as the `EvidenceExchange` of its links.

    One serves all links of a node, under the node's lock.

    Raises:
        UsageError: neither is given.
    """

    def __init__(self, attester: Attester | None, verifier: Verifier | None) -> None:
        if attester is None and verifier is None:
            raise UsageError("attested evidence needs an attester, a verifier, or both")
        self._attester = attester
        self._verifier = verifier
        self.refusals: Counter[Refusal] = Counter()
        """How often a peer's evidence was refused, by reason."""

    @property
    def refused(self) -> Mapping[str, int]:
        """How often a peer's evidence was refused, by the reason's name."""
        return {reason.value: count for reason, count in self.refusals.items()}

    def check(self, clock: Clock) -> None:
        """Return if this node's own part works; it is asked before the first link.

        Raises:
            UsageError: a root is not valid by the verifier's clock, or this node's own
                attester fails, or its time is not `clock`'s.
        """
        if self._verifier is not None:
            self._verifier.check_clock()
        if self._attester is None:
            return
        try:
            evidence = self._attester.evidence(None, None, None)
            made = document.parse(cose.parse(evidence).payload).timestamp_ms / 1000
        except UsageError:
            raise
        except TransportError as error:
            raise UsageError(f"this node's attester does not work: {error}") from error
        apart = abs(clock() - made)
        if apart > _OWN_SKEW:
            raise UsageError(
                f"this clock and the attester's are {apart:.0f} s apart, at most {_OWN_SKEW:.0f} "
                f"are allowed: peers would refuse every document"
            )

    def produce(self, binding: EvidenceBinding) -> bytes:
        """Return a document bound to `binding`, or nothing where there is no attester.

        Raises:
            HandshakeError: this node's own attester failed.
        """
        if self._attester is None:
            return b""
        try:
            return self._attester.evidence(binding.public_key, binding.user_data, binding.nonce)
        except TransportError as error:
            log.error("this node's own attester failed: %s", error)
            raise HandshakeError(f"this node's own attester failed: {error}") from error

    def verify(self, evidence: bytes, binding: EvidenceBinding) -> Attested | None:
        """Return what the peer attests, or None where this node has no policy.

        Raises:
            RefusedEvidenceError: it does not satisfy the policy for this binding.
        """
        if self._verifier is None:
            return None
        try:
            attested = self._verifier.verify(
                evidence,
                public_key=binding.public_key,
                user_data=binding.user_data,
                nonce=binding.nonce,
            )
        except RefusedEvidenceError as refusal:
            self.refusals[refusal.reason] += 1
            log.warning("a peer's evidence was refused: %s", refusal.explanation)
            raise
        kind = "Nitro hardware" if attested.hardware else "not Nitro hardware"
        log.info("a peer attests: %s (%s)", attested.module_id, kind)
        return attested


_OWN_SKEW = 60.0  # seconds, what policies allow unless they say otherwise
