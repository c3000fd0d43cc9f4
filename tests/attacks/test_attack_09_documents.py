"""Attack 9: a debug, expired, tampered, self-made or foreign document, or none at all.

Each is refused with its own reason in this side's log and counters. The attacker is told
the same in every case, and no application key ever exists. A verifier that lacks just the
check in question would admit the same attacker.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from support.attestation import NOW
from support.attested import Sends, World, at_now, linked, shake, terms
from transport.identity.attestation import (
    AttestationPolicy,
    Attested,
    AttestedEvidence,
    EmbeddedAttester,
    EmbeddedAuthority,
    Refusal,
    Root,
    Verifier,
)
from transport.identity.attestation.cose import Sign1
from transport.identity.evidence import EvidenceBinding, EvidenceExchange, NoEvidence
from transport.link.handshake import RefusedError


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def debug(world: World) -> EvidenceExchange:
    return AttestedEvidence(world.attester("print('approved')\n", debug=True), None)


def changed(world: World) -> EvidenceExchange:
    return AttestedEvidence(world.attester("print('changed')\n"), None)


def foreign(world: World) -> EvidenceExchange:
    folder = world.folder / "foreign"
    if not folder.exists():
        EmbeddedAuthority.create(folder, now=NOW)
    script = world.folder / "program.py"
    script.write_text("print('approved')\n", encoding="utf-8")
    return AttestedEvidence(EmbeddedAttester.load(folder, script=script, clock=at_now), None)


def late(world: World) -> EvidenceExchange:
    made = world.attester("print('approved')\n", clock=lambda: NOW + 120)
    return AttestedEvidence(made, None)


def old(world: World) -> EvidenceExchange:
    made = world.attester("print('approved')\n", clock=lambda: NOW - 200)
    return Sends(lambda b: made.evidence(b.public_key, b.user_data, b.nonce))


def tampered(world: World) -> EvidenceExchange:
    def produce(binding: EvidenceBinding) -> bytes:
        genuine = world.approved.evidence(binding.public_key, binding.user_data, binding.nonce)
        return genuine[:-1] + bytes([genuine[-1] ^ 1])

    return Sends(produce)


def nothing(world: World) -> EvidenceExchange:
    return NoEvidence()


def garbage(world: World) -> EvidenceExchange:
    return Sends(lambda _: b"trust me")


ATTACKERS = [
    (debug, Refusal.DEBUG, NOW),
    (changed, Refusal.PCR, NOW),
    (foreign, Refusal.FOREIGN_ROOT, NOW),
    (tampered, Refusal.SIGNATURE, NOW),
    (garbage, Refusal.MALFORMED, NOW),
    (nothing, Refusal.MISSING, NOW),  # fail-open: no evidence is not "no objection"
    (late, Refusal.NOT_YET_VALID, NOW - 1),
    (old, Refusal.STALE, NOW + 101),
    (old, Refusal.EXPIRED, NOW + 7200),
]


@pytest.mark.parametrize(("attacker", "reason", "now"), ATTACKERS)
@pytest.mark.parametrize("attacker_calls", [True, False])
def test_an_attacker_gets_no_link_and_learns_no_reason(
    world: World,
    attacker: Callable[[World], EvidenceExchange],
    reason: Refusal,
    now: float,
    attacker_calls: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    judge = AttestedEvidence(None, world.verifier(lambda: now))
    mine, theirs = terms("honest", judge), terms("attacker", attacker(world))
    with (
        caplog.at_level(logging.WARNING, "transport"),
        pytest.raises(RefusedError, match=f"refused: {reason.value}: ") as caught,
    ):
        shake(*((theirs, mine) if attacker_calls else (mine, theirs)))
    assert judge.refusals == {reason: 1}
    assert f"refused: {reason.value}: " in caplog.text
    assert caught.value.evidence
    assert len(caught.value.answer) == 8 + 1 + 16  # header, one byte, tag: room for no reason


@pytest.mark.parametrize(
    "attacker", [changed, nothing, tampered, debug], ids=lambda each: each.__name__
)
def test_no_application_key_exists_for_who_was_refused(
    world: World, attacker: Callable[[World], EvidenceExchange]
) -> None:
    judge = AttestedEvidence(None, world.verifier())
    assert not linked(judge, attacker(world))
    assert judge.refusals


class FailsOpen:
    """The classic mistake: judge evidence if there is any."""

    def __init__(self, exchange: AttestedEvidence) -> None:
        self._exchange = exchange

    def produce(self, binding: EvidenceBinding) -> bytes:
        return self._exchange.produce(binding)

    def verify(self, evidence: bytes, binding: EvidenceBinding) -> Attested | None:
        return self._exchange.verify(evidence, binding) if evidence else None


def test_who_sends_no_evidence_is_refused_where_a_mistake_would_admit_it(world: World) -> None:
    judge = AttestedEvidence(None, world.verifier())
    assert not linked(judge, NoEvidence())
    assert set(judge.refusals) == {Refusal.MISSING}
    assert linked(FailsOpen(AttestedEvidence(None, world.verifier())), NoEvidence())


# --- each check is what stops it ----------------------------------------------------------


def weakened(world: World, *, now: float = NOW, register: int = 0, **policy: Any) -> Verifier:
    """A verifier for the approved program, but for one thing that it is given."""
    settings = {"roots": world.policy.roots, **policy}
    expected = {register: [world.approved.pcrs[register]]}
    return Verifier(AttestationPolicy(expected, **settings), clock=lambda: now)


def allows_debug(world: World) -> Verifier:
    return weakened(world, register=8, allow_debug=True)


def measures_nothing(world: World) -> Verifier:
    return weakened(world, register=8)  # the signer alone


def trusts_any_root(world: World) -> Verifier:
    foreign(world)
    return weakened(world, roots=[Root.load(world.folder / "foreign" / "root.pem")])


def asks_for_no_age(world: World) -> Verifier:
    return weakened(world, now=NOW + 101, max_age=1e6)


def has_a_clock_that_was_set_forward(world: World) -> Verifier:
    return weakened(world, now=NOW + 120)


def has_a_clock_that_was_set_back(world: World) -> Verifier:
    return weakened(world, now=NOW - 100)


@pytest.mark.parametrize(
    ("attacker", "weak"),
    [
        (debug, allows_debug),
        (changed, measures_nothing),
        (foreign, trusts_any_root),
        (late, has_a_clock_that_was_set_forward),
        (old, asks_for_no_age),
        (old, has_a_clock_that_was_set_back),
    ],
    ids=lambda each: each.__name__,
)
def test_a_verifier_without_that_check_would_admit_it(
    world: World,
    attacker: Callable[[World], EvidenceExchange],
    weak: Callable[[World], Verifier],
) -> None:
    assert linked(AttestedEvidence(None, weak(world)), attacker(world))


def test_a_verifier_without_signatures_would_admit_what_was_tampered_with(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sign1, "verify", lambda envelope, key: None)
    assert linked(AttestedEvidence(None, world.verifier()), tampered(world))
