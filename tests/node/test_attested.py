"""Nodes with a policy: who runs the approved program is linked, and nobody else."""

from __future__ import annotations

import dataclasses
import logging
import time
from pathlib import Path

import numpy as np
import pytest

from support.nodes import IMPATIENT, until
from transport import Config, Identity, Node, Trust
from transport.errors import AuthenticationError, HandshakeError, PeerLostError, UsageError
from transport.identity.attestation import (
    AttestationPolicy,
    Attester,
    EmbeddedAttester,
    EmbeddedAuthority,
)

SECRET = bytes(range(32))
LIMIT = 30.0  # seconds; everything here ends long before


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    EmbeddedAuthority.create(tmp_path / "authority", now=time.time())
    return tmp_path / "authority"


def program(folder: Path, text: str) -> EmbeddedAttester:
    script = folder.parent / "program.py"
    script.write_text(text, encoding="utf-8")
    return EmbeddedAttester.load(folder, script=script)


def policy_for(attester: EmbeddedAttester) -> AttestationPolicy:
    return AttestationPolicy({0: [attester.pcrs[0]]}, roots=[attester.root])


def node(name: str, trust: Trust, config: Config | None = None) -> Node:
    return Node(name, identity=Identity.generate(), trust=trust, config=config)


def link(caller: Node, answerer: Node) -> None:
    caller.connect(answerer.addresses[0], peer=answerer.name, timeout=LIMIT)
    answerer.wait_for(caller.name, timeout=LIMIT)


def exchange(first: Node, second: Node) -> None:
    for sender, receiver in ((first, second), (second, first)):
        sender.send(np.arange(6.0), to=receiver.name, timeout=LIMIT)
        assert receiver.recv(source=sender.name, timeout=LIMIT).tolist() == [0, 1, 2, 3, 4, 5]


def test_approved_programs_exchange_tensors_and_see_what_the_other_runs(authority: Path) -> None:
    approved = program(authority, "print('approved')\n")
    trust = Trust(secret=SECRET, policy=policy_for(approved), attester=approved)
    with node("a", trust) as first, node("b", trust) as second:
        link(first, second)
        exchange(first, second)
        for here, peer in ((first, "b"), (second, "a")):
            attested = here.link(peer).stats().attested
            assert attested is not None
            assert attested.pcrs == approved.pcrs
            assert attested.module_id.startswith("MODEL, not hardware")
            assert not attested.hardware
            assert here.stats().evidence_refused == {}


@pytest.mark.parametrize("judge_calls", [True, False])
def test_one_side_alone_may_attest(authority: Path, judge_calls: bool) -> None:
    approved = program(authority, "print('approved')\n")
    asking = Trust(secret=SECRET, policy=policy_for(approved))
    with (
        node("judge", asking) as judge,
        node("speaker", Trust(secret=SECRET, attester=approved)) as speaker,
    ):
        link(*((judge, speaker) if judge_calls else (speaker, judge)))
        exchange(judge, speaker)
        attested = judge.link("speaker").stats().attested
        assert attested is not None
        assert attested.pcrs == approved.pcrs
        assert speaker.link("judge").stats().attested is None


def test_who_attests_may_link_to_nodes_that_ask_for_nothing(authority: Path) -> None:
    speaking = Trust(secret=SECRET, attester=program(authority, "print('approved')\n"))
    with node("speaker", speaking) as speaker, node("plain", Trust(secret=SECRET)) as plain:
        link(speaker, plain)
        exchange(speaker, plain)
        assert plain.link("speaker").stats().attested is None
        assert speaker.link("plain").stats().attested is None


def test_a_policy_may_be_the_only_trust(authority: Path) -> None:
    approved = program(authority, "print('approved')\n")
    changed = program(authority, "print('changed')\n")
    policy = policy_for(approved)
    with node("a", Trust(policy=policy, attester=approved)) as first:
        with node("b", Trust(policy=policy, attester=approved)) as second:
            link(second, first)
            exchange(first, second)
        with (
            node("c", Trust(policy=policy, attester=changed)) as third,
            pytest.raises(AuthenticationError),
        ):
            third.connect(first.addresses[0], peer="a", timeout=LIMIT)


@pytest.mark.parametrize("changed_calls", [True, False])
def test_a_changed_program_gets_no_link(authority: Path, changed_calls: bool) -> None:
    approved = program(authority, "print('approved')\n")
    honest = Trust(secret=SECRET, policy=policy_for(approved), attester=approved)
    other = Trust(secret=SECRET, attester=program(authority, "print('changed')\n"))
    with node("honest", honest) as judge, node("changed", other) as attacker:
        caller, answerer = (attacker, judge) if changed_calls else (judge, attacker)
        with pytest.raises(HandshakeError) as caught:
            caller.connect(answerer.addresses[0], peer=answerer.name, timeout=LIMIT)
        assert isinstance(caught.value, AuthenticationError)
        # Only the side that refuses knows why.
        assert ("PCR0" in str(caught.value)) is not changed_calls
        with pytest.raises(UsageError):
            judge.link("changed")
        counted = judge.stats()
        assert counted.evidence_refused.keys() == {"pcr"}
        assert counted.drops.get("evidence", 0) == (
            counted.evidence_refused["pcr"] if changed_calls else 0
        )
        assert attacker.stats().evidence_refused == {}


class Turncoat:
    """Runs the approved program, and from a moment on another one."""

    def __init__(self, approved: EmbeddedAttester, changed: EmbeddedAttester) -> None:
        self.speaks: Attester = approved
        self._changed = changed

    def turn(self) -> None:
        self.speaks = self._changed

    def evidence(
        self, public_key: bytes | None, user_data: bytes | None, nonce: bytes | None
    ) -> bytes:
        return self.speaks.evidence(public_key, user_data, nonce)


@pytest.mark.parametrize("judge_calls", [True, False])
def test_every_renewal_attests_again_and_cuts_who_has_changed(
    authority: Path, judge_calls: bool
) -> None:
    approved = program(authority, "print('approved')\n").timed_by(time.time)
    changed = program(authority, "print('changed')\n").timed_by(time.time)
    turncoat = Turncoat(approved, changed)
    often = dataclasses.replace(IMPATIENT, rehandshake_interval=0.2)
    asking = Trust(secret=SECRET, policy=policy_for(approved))
    with (
        node("judge", asking, often) as judge,
        node("peer", Trust(secret=SECRET, attester=turncoat), often) as peer,
    ):
        link(*((judge, peer) if judge_calls else (peer, judge)))
        statistics = judge.link("peer").stats
        first = statistics().attested
        assert first is not None
        until(lambda: statistics().generation >= 2)
        later = statistics().attested
        assert later is not None
        assert later.timestamp > first.timestamp
        assert later.nonce != first.nonce
        exchange(judge, peer)
        turncoat.turn()
        with pytest.raises(PeerLostError):
            judge.recv(source="peer", timeout=LIMIT)
        with pytest.raises(PeerLostError):
            peer.recv(source="judge", timeout=LIMIT)
        assert judge.stats().evidence_refused == {"pcr": 1}
        assert judge.stats().links == peer.stats().links == ()


def test_the_log_says_that_it_is_a_model(authority: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "transport")
    approved = program(authority, "print('approved')\n")
    assert "by an embedded attester: MODEL, not hardware" in caplog.text
    caplog.clear()
    trust = Trust(secret=SECRET, policy=policy_for(approved), attester=approved)
    with node("a", trust) as first, node("b", trust) as second:
        link(first, second)
    lines = [line for line in caplog.messages if "a peer attests" in line]
    assert len(lines) == 2
    assert all("MODEL, not hardware" in line and "(not Nitro hardware)" in line for line in lines)


def test_a_node_whose_own_attester_cannot_work_does_not_start(authority: Path) -> None:
    approved = program(authority, "print('approved')\n")
    (authority / "root.pem").unlink()
    with pytest.raises(UsageError):
        program(authority, "print('approved')\n")
    late = EmbeddedAuthority.create(authority.parent / "late", now=time.time() + 86400)
    policy = AttestationPolicy({0: [approved.pcrs[0]]}, roots=[late])
    with pytest.raises(UsageError, match="nothing could verify"):
        node("a", Trust(secret=SECRET, policy=policy))
