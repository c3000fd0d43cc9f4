"""The evidence step: what each side proves about itself after the handshake (docs/spec.md 4.5).

Evidence is bound to one link: its nonce is the peer's fresh 32 bytes and its
user data covers role, transcript and both static keys, so evidence can be
neither relayed from another link nor reflected at its author. A node without
an attestation policy runs the same step with empty evidence; there is one key
schedule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha512
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .attestation import Attested

_LABEL = b"sealfabric 1 evidence"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceBinding:
    """What one side's evidence must be bound to."""

    public_key: bytes  # the author's own Noise static key, 32 bytes
    nonce: bytes  # fresh from the other side, 32 bytes
    user_data: bytes  # SHA-512 over the link's facts, 64 bytes

    @classmethod
    def of(
        cls,
        *,
        author_is_initiator: bool,
        transcript: bytes,
        author_key: bytes,
        reader_key: bytes,
        initiator_nonce: bytes,
        responder_nonce: bytes,
    ) -> EvidenceBinding:
        """Derive the binding; author and reader of the evidence arrive at the same one."""
        role = b"initiator" if author_is_initiator else b"responder"
        parts = (_LABEL, role, transcript, author_key, reader_key, initiator_nonce, responder_nonce)
        digest = sha512(b"".join(len(part).to_bytes(2, "big") + part for part in parts)).digest()
        return cls(
            public_key=author_key,
            nonce=responder_nonce if author_is_initiator else initiator_nonce,
            user_data=digest,
        )


class EvidenceExchange(Protocol):
    """Produces this node's evidence and judges the peer's."""

    @property
    def refused(self) -> Mapping[str, int]:
        """How often the peers' evidence was refused, by reason, for the operator."""
        ...

    def produce(self, binding: EvidenceBinding) -> bytes:
        """Return evidence for `binding`, at most 7 KiB.

        Raises:
            HandshakeError: this node's own attester failed.
        """
        ...

    def verify(self, evidence: bytes, binding: EvidenceBinding) -> Attested | None:
        """Return what `evidence` attests, if it satisfies this node's policy for `binding`.

        None where this node has no policy: nothing is known of the peer's program.

        Raises:
            AuthenticationError: it does not; the reason is for this side's log.
        """
        ...


class NoEvidence:
    """This node neither attests nor asks: it sends nothing, and believes nothing it is sent."""

    @property
    def refused(self) -> Mapping[str, int]:
        """Nothing is counted here: without a policy there are no reasons."""
        return {}

    def produce(self, binding: EvidenceBinding) -> bytes:
        """Return empty evidence."""
        return b""

    def verify(self, evidence: bytes, binding: EvidenceBinding) -> None:
        """Let it pass unread: a peer that attests to others is no worse for it here."""
