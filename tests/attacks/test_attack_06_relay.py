"""Attack 6: relay genuine evidence from another link.

An attacker without an approved program has a link with somebody who runs one, and shows
that node's evidence as its own. Key, transcript and nonce are each bound; each is shown
to be what stops the attack that it is there for, by a verifier that leaves it out.
"""

from __future__ import annotations

import pytest

from support.attested import Sends, Weakened, World, linked
from transport.identity import Identity
from transport.identity.attestation import AttestedEvidence, Refusal
from transport.identity.evidence import EvidenceBinding, EvidenceExchange


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def relayed(world: World, judge: EvidenceExchange, *, own_key: bool) -> bool:
    """An attacker without an approved program shows a victim's evidence as its own.

    It asks the victim for evidence over a link of its own, passing on whatever of the
    honest node's it can: here even the very nonce, as an attacker could where nonces
    alone were bound. With `own_key` it has the victim's static key too (leaked).
    """
    victim = Identity.generate()
    attacker = victim if own_key else Identity.generate()

    def borrow(binding: EvidenceBinding) -> bytes:
        elsewhere = EvidenceBinding.of(
            author_is_initiator=False,
            transcript=b"T" * 64,  # of the victim's link with the attacker
            author_key=victim.public_key,
            reader_key=attacker.public_key,
            initiator_nonce=binding.nonce,
            responder_nonce=b"R" * 32,
        )
        return world.approved.evidence(victim.public_key, elsewhere.user_data, binding.nonce)

    return linked(judge, Sends(borrow), attacker)


def test_relayed_evidence_is_refused_and_the_key_it_names_is_why(world: World) -> None:
    judge = AttestedEvidence(None, world.verifier())
    assert not relayed(world, judge, own_key=False)
    assert set(judge.refusals) == {Refusal.PUBLIC_KEY}
    assert not relayed(world, Weakened(world, "user_data"), own_key=False)
    assert not relayed(world, Weakened(world, "public_key"), own_key=False)
    # Bound to nothing but a nonce, it would be believed.
    assert relayed(world, Weakened(world, "public_key", "user_data"), own_key=False)


def test_even_with_the_victims_key_evidence_of_another_link_is_refused(world: World) -> None:
    judge = AttestedEvidence(None, world.verifier())
    assert not relayed(world, judge, own_key=True)
    assert set(judge.refusals) == {Refusal.USER_DATA}
    assert relayed(world, Weakened(world, "user_data"), own_key=True)


def replayed(world: World, judge: EvidenceExchange) -> bool:
    """The evidence of an earlier link of the same two, with everything bound but the nonce."""
    identity, caught = Identity.generate(), []

    def keep(binding: EvidenceBinding) -> bytes:
        first = caught[0] if caught else (binding.user_data, binding.nonce)
        caught.append(first)
        return world.approved.evidence(binding.public_key, binding.user_data, first[1])

    assert linked(judge, Sends(keep), identity, seed=1)  # the first time it is fresh
    return linked(judge, Sends(keep), identity, seed=2)


def test_an_old_nonce_is_refused_and_the_nonce_is_why(world: World) -> None:
    judge = AttestedEvidence(None, world.verifier())
    assert not replayed(world, judge)
    assert set(judge.refusals) == {Refusal.NONCE}
    assert replayed(world, Weakened(world, "nonce"))
