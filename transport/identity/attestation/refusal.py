"""Why evidence is refused: one reason each for this side's log, one text for the peer.

A peer that learned whether its debug flag, its clock or one of its PCRs was at fault
could search for what passes. So the exception's text is constant; reason and detail are
attributes, for logs and counters of the side that refused.
"""

from __future__ import annotations

from enum import Enum

from ...errors import AuthenticationError

__all__ = ["Refusal", "RefusedEvidenceError"]


class Refusal(Enum):
    """The cause of a refusal; the value is its name in logs and counters."""

    MALFORMED = "malformed"  # not an attestation document at all
    TOO_LARGE = "too_large"  # the document or a field exceeds its limit
    OTHER_TYPE = "other_type"  # a document of another kind, such as NitroTPM's
    ALGORITHM = "algorithm"  # not ES384 over SHA384
    CERTIFICATE = "certificate"  # a certificate cannot be read, or has another kind of key
    SELF_SIGNED = "self_signed"  # names no issuer: it vouches for itself
    FOREIGN_ROOT = "foreign_root"  # its chain starts at none of the pinned roots
    CHAIN = "chain"  # an issuer does not match, may not issue, or did not sign
    NOT_YET_VALID = "not_yet_valid"  # a certificate, by this side's clock
    EXPIRED = "expired"  # the same
    SIGNATURE = "signature"  # the document's own signature does not verify
    FROM_THE_FUTURE = "from_the_future"  # its time is ahead of this side's clock
    STALE = "stale"  # older than the policy allows
    DEBUG = "debug"  # PCR0, 1 and 2 are zero, and the policy does not allow that
    PCR = "pcr"  # a register holds none of the expected values
    PUBLIC_KEY = "public_key"  # not the key it must be bound to
    USER_DATA = "user_data"  # not the data it must be bound to
    NONCE = "nonce"  # not the nonce it must be bound to
    MISSING = "missing"  # no evidence, where a policy asks for it


class RefusedEvidenceError(AuthenticationError):
    """Evidence was refused. `str()` never says why; `reason` and `detail` do, for the log."""

    def __init__(self, reason: Refusal, detail: str) -> None:
        super().__init__("the evidence was refused")
        self.reason = reason
        self.detail = detail

    @property
    def explanation(self) -> str:
        """Reason and detail in one line, for this side's log; not to be sent to the peer."""
        return f"{self.reason.value}: {self.detail}"
