"""Attestation as a link's evidence: one side, both sides, and what fails on this side."""

from __future__ import annotations

import dataclasses

import pytest

from support.attestation import NOW
from support.attested import World, at_now, shake, terms
from support.pair import SECRET, Pair
from transport.config import Config
from transport.errors import AuthenticationError, ClosedError, HandshakeError, UsageError
from transport.identity import Trust
from transport.identity.attestation import (
    Attested,
    AttestedEvidence,
    AttesterError,
    Refusal,
    RefusedEvidenceError,
)
from transport.identity.evidence import EvidenceBinding, NoEvidence
from transport.link import State


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


# --- who attests ------------------------------------------------------------------------


def test_both_sides_attest_and_each_sees_what_the_other_runs(world: World) -> None:
    first, second = shake(terms("caller", world.mutual()), terms("answerer", world.mutual()))
    for side in (first, second):
        assert side.agreement is not None
        assert side.agreement.attested is not None
        assert side.agreement.attested.pcrs == world.approved.pcrs


def test_one_side_alone_may_attest(world: World) -> None:
    judge, speaker = (
        AttestedEvidence(None, world.verifier()),
        AttestedEvidence(world.approved, None),
    )
    for caller, answerer in ((judge, speaker), (speaker, judge)):
        first, second = shake(terms("caller", caller), terms("answerer", answerer))
        assert first.agreement is not None
        assert second.agreement is not None
        seen = {
            exchange: side.agreement.attested
            for exchange, side in zip((caller, answerer), (first, second), strict=True)
        }
        assert seen[judge] is not None
        assert seen[judge].pcrs == world.approved.pcrs
        assert seen[speaker] is None


def test_without_a_policy_evidence_is_neither_judged_nor_believed(world: World) -> None:
    exchange = AttestedEvidence(world.approved, None)
    binding = EvidenceBinding(public_key=b"k" * 32, nonce=b"n" * 32, user_data=b"u" * 64)
    assert exchange.verify(b"anything at all", binding) is None


def test_evidence_needs_one_half_at_least() -> None:
    with pytest.raises(UsageError, match="an attester, a verifier, or both"):
        AttestedEvidence(None, None)


def test_attested_links_carry_messages_and_attest_again_at_every_renewal(world: World) -> None:
    class Counted(AttestedEvidence):
        judged = 0

        def verify(self, evidence: bytes, binding: EvidenceBinding) -> Attested | None:
            self.judged += 1
            return super().verify(evidence, binding)

    sides = tuple(Counted(world.approved, world.verifier()) for _ in range(2))
    pair = Pair(paths=2, evidence=(sides[0], sides[1]), config=Config(rehandshake_interval=30.0))
    pair.client.send(b"a tensor", tag=1)
    assert pair.deliver() == b"a tensor"
    assert [side.judged for side in sides] == [1, 1]
    pair.run(35.0)
    assert pair.client.stats().generation >= 1
    assert all(side.judged >= 2 for side in sides)


@pytest.mark.parametrize("judge_calls", [True, False])
@pytest.mark.parametrize(
    ("later", "reason"), [(301.0, Refusal.STALE), (2 * 3600.0, Refusal.EXPIRED)]
)
def test_a_peer_that_no_longer_satisfies_the_policy_loses_the_link_at_the_renewal(
    world: World, later: float, reason: Refusal, judge_calls: bool
) -> None:
    now = NOW
    judge = AttestedEvidence(None, world.verifier(lambda: now))
    speaker = AttestedEvidence(world.approved, None)
    sides = (judge, speaker) if judge_calls else (speaker, judge)
    pair = Pair(paths=1, evidence=sides, config=Config(rehandshake_interval=30.0))
    pair.client.send(b"before", tag=1)
    assert pair.deliver() == b"before"
    now = NOW + later  # its documents are still made at `NOW`
    pair.advance(until=lambda: all(side.failed is not None for side in pair.sides))
    judging = pair.client if judge_calls else pair.server
    assert isinstance(judging.failure, AuthenticationError)
    assert judge.refusals == {reason: 1}
    assert all(side.link.state is State.CLOSED for side in pair.sides)
    with pytest.raises(ClosedError):
        pair.client.send(b"after", tag=1)


def test_a_policy_that_nothing_would_apply_is_refused(world: World) -> None:
    trust = Trust(secret=SECRET, policy=world.policy)
    with pytest.raises(UsageError, match="needs the evidence that applies it"):
        dataclasses.replace(terms("honest", NoEvidence()), trust=trust)


# --- this side's own failures ----------------------------------------------------------------


class Broken:
    """An attester whose device does not answer."""

    def evidence(
        self, public_key: bytes | None, user_data: bytes | None, nonce: bytes | None
    ) -> bytes:
        raise AttesterError("the device does not answer")


def test_an_attester_that_fails_ends_the_attempt_and_blames_nobody_else(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    broken = AttestedEvidence(Broken(), None)
    with pytest.raises(HandshakeError, match="own attester failed") as caught:
        shake(terms("honest", broken), terms("peer", NoEvidence()))
    assert not isinstance(caught.value, AuthenticationError)
    with pytest.raises(UsageError, match="this node's attester does not work"):
        broken.check(at_now)
    assert "the device does not answer" in caplog.text


def test_a_clock_that_is_wrong_is_noticed_before_the_first_link(world: World) -> None:
    world.mutual().check(at_now)
    with pytest.raises(UsageError, match="61 s apart"):
        world.mutual().check(lambda: NOW + 61)
    with pytest.raises(UsageError, match="nothing could verify"):
        AttestedEvidence(None, world.verifier(lambda: 0.0)).check(lambda: 0.0)


def test_the_refusal_is_an_authentication_error_without_detail(world: World) -> None:
    binding = EvidenceBinding(public_key=b"k" * 32, nonce=b"n" * 32, user_data=b"u" * 64)
    with pytest.raises(AuthenticationError) as caught:
        world.mutual().verify(b"", binding)
    assert isinstance(caught.value, RefusedEvidenceError)
    assert str(caught.value) == "the evidence was refused"
