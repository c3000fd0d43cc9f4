"""The evidence step: a binding that both sides derive alike and nobody else's fits."""

from __future__ import annotations

from hashlib import sha512

import pytest

from transport.identity.evidence import EvidenceBinding, EvidenceExchange, NoEvidence

FACTS: dict[str, bytes] = {
    "transcript": bytes(64),
    "author_key": b"A" * 32,
    "reader_key": b"B" * 32,
    "initiator_nonce": b"I" * 32,
    "responder_nonce": b"R" * 32,
}


def test_a_binding_names_its_author_and_the_readers_nonce() -> None:
    mine = EvidenceBinding.of(author_is_initiator=True, **FACTS)
    assert mine.public_key == b"A" * 32
    assert mine.nonce == b"R" * 32
    theirs = EvidenceBinding.of(author_is_initiator=False, **FACTS)
    assert theirs.nonce == b"I" * 32
    assert len(mine.user_data) == len(theirs.user_data) == 64


def test_the_user_data_is_the_hash_of_the_specification() -> None:
    parts = [b"sealfabric 1 evidence", b"initiator", *FACTS.values()]
    expected = sha512(b"".join(len(part).to_bytes(2, "big") + part for part in parts)).digest()
    assert EvidenceBinding.of(author_is_initiator=True, **FACTS).user_data == expected


def test_each_fact_changes_the_binding() -> None:
    bindings = {EvidenceBinding.of(author_is_initiator=True, **FACTS).user_data}
    for name, value in FACTS.items():
        other = {**FACTS, name: bytes([value[0] ^ 1]) + value[1:]}
        bindings.add(EvidenceBinding.of(author_is_initiator=True, **other).user_data)
    assert len(bindings) == len(FACTS) + 1


def test_evidence_is_not_symmetric_so_it_cannot_be_reflected() -> None:
    swapped = {**FACTS, "author_key": FACTS["reader_key"], "reader_key": FACTS["author_key"]}
    own = EvidenceBinding.of(author_is_initiator=True, **FACTS)
    assert own.user_data != EvidenceBinding.of(author_is_initiator=False, **FACTS).user_data
    assert own.user_data != EvidenceBinding.of(author_is_initiator=False, **swapped).user_data


def test_moving_bytes_between_neighbouring_facts_changes_the_hash() -> None:
    moved = {**FACTS, "transcript": bytes(63), "author_key": b"\0" + b"A" * 32}
    assert (
        EvidenceBinding.of(author_is_initiator=True, **moved).user_data
        != EvidenceBinding.of(author_is_initiator=True, **FACTS).user_data
    )


@pytest.mark.parametrize("evidence", [b"", b"abc", bytes(7168)])
def test_without_attester_and_policy_nothing_is_sent_and_nothing_believed(evidence: bytes) -> None:
    binding = EvidenceBinding.of(author_is_initiator=True, **FACTS)
    exchange: EvidenceExchange = NoEvidence()
    assert exchange.produce(binding) == b""
    assert exchange.verify(evidence, binding) is None
    assert exchange.refused == {}
