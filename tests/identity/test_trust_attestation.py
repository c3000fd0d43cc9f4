"""Trust with a policy and an attester: what it asks, what it derives, and its file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from support.attested import World, at_now, shake
from support.pair import SECRET
from transport.errors import UsageError
from transport.identity import Identity, Trust
from transport.identity.attestation import AttestedEvidence, EmbeddedAttester
from transport.identity.evidence import NoEvidence
from transport.link.handshake import RefusedError, Terms


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def written(folder: Path, **document: Any) -> Path:
    path = folder / "trust.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def policy_file(folder: Path, world: World) -> Path:
    path = folder / "policy.json"
    fields = json.loads(world.policy.to_json())
    fields["roots"] = [str(world.folder / "authority" / "root.pem")]
    fields["pcrs"] = {str(int(index)): values for index, values in fields["pcrs"].items()}
    path.write_text(json.dumps(fields), encoding="utf-8")
    return path


def terms(name: str, trust: Trust) -> Terms:
    return Terms(
        name=name,
        identity=Identity.generate(),
        trust=trust,
        evidence=trust.evidence(at_now),
        packet_limit=1 << 20,
        credit=1 << 24,
    )


def test_a_policy_is_bound_into_the_handshake_by_its_hash(world: World) -> None:
    none = hashlib.sha256(b"sealfabric 1 policy: none").digest()
    assert Trust(secret=SECRET).policy_hash == none
    assert Trust(secret=SECRET, attester=world.approved).policy_hash == none
    assert Trust(secret=SECRET, policy=world.policy).policy_hash == world.policy.hash != none


def test_without_policy_and_attester_there_is_no_evidence() -> None:
    assert isinstance(Trust(secret=SECRET).evidence(at_now), NoEvidence)


def test_policy_and_attester_make_the_evidence_step_of_a_node(world: World) -> None:
    trust = Trust(secret=SECRET, policy=world.policy, attester=world.approved)
    first, second = shake(terms("caller", trust), terms("answerer", trust))
    for side in (first, second):
        assert side.agreement is not None
        assert side.agreement.attested is not None
        assert side.agreement.attested.pcrs == world.approved.pcrs


def test_a_policy_alone_is_trust_in_whoever_satisfies_it(world: World) -> None:
    trust = Trust(policy=world.policy, attester=world.approved)
    first, _ = shake(terms("caller", trust), terms("answerer", trust))
    assert first.agreement is not None
    changed = Trust(policy=world.policy, attester=world.attester("print('changed')\n"))
    with pytest.raises(RefusedError, match="pcr: "):
        shake(terms("caller", trust), terms("answerer", changed))
    assert trust.knows("anybody")
    assert trust.caller_key("answerer", None) != trust.caller_key("another", None)


def test_all_that_is_given_must_hold(world: World) -> None:
    peer = Trust(secret=bytes(32), attester=world.approved, policy=world.policy)
    assert peer.psk != Trust(secret=SECRET, policy=world.policy).psk
    pinned = Trust(peers={"peer": b"k" * 32}, policy=world.policy)
    assert not pinned.knows("another")
    assert not pinned.admits("peer", b"K" * 32)


def test_an_attester_without_a_clock_is_given_the_nodes(world: World) -> None:
    made = EmbeddedAttester.load(
        world.folder / "authority", script=world.folder / "program.py", clock=None
    )
    exchange = Trust(secret=SECRET, attester=made).evidence(at_now)
    assert isinstance(exchange, AttestedEvidence)
    with pytest.raises(UsageError, match="and this clock says"):
        Trust(secret=SECRET, attester=made).evidence(lambda: 0.0)


def test_what_can_never_work_is_refused_at_the_start(world: World) -> None:
    with pytest.raises(UsageError, match="nothing could verify"):
        Trust(secret=SECRET, policy=world.policy).evidence(lambda: 0.0)
    with pytest.raises(UsageError, match="an AttestationPolicy, got dict"):
        Trust(secret=SECRET, policy={})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="an Attester, got str"):
        Trust(secret=SECRET, attester="nitro")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="or several of them"):
        Trust(attester=world.approved)


def test_a_trust_file_names_policy_and_attester(world: World, tmp_path: Path) -> None:
    policy_file(tmp_path, world)
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "secret").chmod(0o600)
    attester = {
        "kind": "embedded",
        "folder": str(world.folder / "authority"),
        "script": str(world.folder / "program.py"),
    }
    (world.folder / "program.py").write_text("print('approved')\n", encoding="utf-8")
    trust = Trust.load(
        written(tmp_path, secret_file="secret", policy_file="policy.json", attester=attester)
    )
    assert trust.policy is not None
    assert trust.policy.hash == world.policy.hash
    assert isinstance(trust.attester, EmbeddedAttester)
    assert trust.attester.pcrs == world.approved.pcrs
    shake(terms("caller", trust), terms("answerer", trust))


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ({"attester": {"kind": "nitro"}}, "this is no Nitro enclave"),
        ({"attester": "nitro"}, "must be an object with a `kind`"),
        ({"attester": {"kind": "tpm"}}, "must be an object with a `kind`"),
        ({"attester": {"kind": ["nitro"]}}, "must be an object with a `kind`"),
        ({"attester": None}, "must be an object with a `kind`"),
        ({"attester": {"kind": "embedded"}}, "`folder` must be a path"),
        ({"attester": {"kind": "embedded", "folder": 7}}, "`folder` must be a path"),
        ({"attester": {"kind": "embedded", "folder": "absent"}}, "cannot be read"),
        ({"attester": {"kind": "nitro", "folder": "x"}}, "unknown keys: \\['folder'\\]"),
        ({"policy_file": "absent.json"}, "cannot be read"),
        ({"policy_file": None}, "`policy_file` must be a path"),
        ({"policy": {}}, "unknown keys: 'policy'"),
    ],
)
def test_a_trust_file_that_names_what_is_not_there_is_refused(
    tmp_path: Path, document: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        Trust.load(written(tmp_path, peers={}, **document))


def test_a_trust_says_that_it_has_a_policy_and_not_which(world: World) -> None:
    shown = repr(Trust(secret=SECRET, policy=world.policy))
    assert shown == "<Trust any name, with a secret, with a policy>"
