"""Attack 7: reflect the peer's own evidence.

An attacker who has no evidence answers with the evidence it was just shown. What both
sides would derive alike, as from an exporter alone, cannot tell the two directions
apart; here role, key and nonce do.
"""

from __future__ import annotations

from typing import Any

import pytest

from support.attested import BOUND, Weakened, World, linked
from transport.identity.attestation import Refusal
from transport.identity.evidence import EvidenceBinding, EvidenceExchange


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def reflected(judge: EvidenceExchange) -> bool:
    """An attacker answers the honest caller with the caller's own evidence."""
    mirror: list[bytes] = []

    class Mirror:
        def produce(self, binding: EvidenceBinding) -> bytes:
            return mirror[-1]

        def verify(self, evidence: bytes, binding: EvidenceBinding) -> None:
            mirror.append(evidence)

    return linked(judge, Mirror())


def test_reflected_evidence_is_refused_and_every_binding_says_so(world: World) -> None:
    judge = world.mutual()
    assert not reflected(judge)
    assert set(judge.refusals) == {Refusal.PUBLIC_KEY}
    for kept in BOUND:
        assert not reflected(Weakened(world, *(name for name in BOUND if name != kept)))
    assert reflected(Weakened(world, *BOUND))


def symmetric(**facts: Any) -> EvidenceBinding:
    """A binding made of the transcript alone, as an exporter gives it: the same both ways."""
    return EvidenceBinding(
        public_key=b"", nonce=b"", user_data=facts["transcript"][:64].ljust(64, b"\0")
    )


def test_a_binding_that_is_the_same_both_ways_would_let_it_pass(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EvidenceBinding, "of", staticmethod(symmetric))
    assert reflected(world.mutual())
