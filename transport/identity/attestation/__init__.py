"""What a node runs, proven to another: attestation documents, policies and attesters.

    attester, nitro, embedded   who speaks for this node: hardware, or a model of it
    measure, authority          what the model measures, and under whose root it speaks
    verifier, policy            who is believed, and what must be attested
    document, cose, cbor        the format, strictly parsed
    chain, roots                certificates from a pinned root to a document's signer
    evidence                    all of it as the evidence step of a link

Verification is pure: bytes and the time come in as arguments, and no input raises
anything but a `RefusedEvidenceError` that names its reason. docs/explanation/attestation.md
says what is proven by whom.
"""

from __future__ import annotations

from .attester import Attester, AttesterError
from .authority import EmbeddedAuthority
from .embedded import EmbeddedAttester
from .evidence import AttestedEvidence
from .measure import Measurement, measure
from .nitro import NitroAttester, NsmDevice
from .policy import AttestationPolicy
from .refusal import Refusal, RefusedEvidenceError
from .roots import NITRO_FINGERPRINT, Root, nitro_root
from .verifier import UNCHECKED, Attested, Clock, Verifier

__all__ = [
    "NITRO_FINGERPRINT",
    "UNCHECKED",
    "AttestationPolicy",
    "Attested",
    "AttestedEvidence",
    "Attester",
    "AttesterError",
    "Clock",
    "EmbeddedAttester",
    "EmbeddedAuthority",
    "Measurement",
    "NitroAttester",
    "NsmDevice",
    "Refusal",
    "RefusedEvidenceError",
    "Root",
    "Verifier",
    "measure",
    "nitro_root",
]
