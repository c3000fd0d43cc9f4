"""Who a rank is and whom it trusts: from files, checked at the start and by the handshake."""

from __future__ import annotations

import base64
import json
import time

import pytest

from support.groups import error_of
from support.job import job, said, shared_secret
from support.nodes import SECRET
from transport import Identity, Trust, UsageError
from transport.collectives.credentials import Credentials
from transport.identity import rank_name
from transport.identity.attestation import EmbeddedAttester, EmbeddedAuthority

NAMES = [rank_name(rank) for rank in range(3)]
IDENTITIES = [Identity.generate() for _ in NAMES]
PINNED = Trust(peers={n: i.public_key for n, i in zip(NAMES, IDENTITIES, strict=True)})


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    for variable in ("SEALFABRIC_SECRET_FILE", "SEALFABRIC_TRUST", "SEALFABRIC_IDENTITY"):
        monkeypatch.delenv(variable, raising=False)


def base64_of(identity):
    return base64.b64encode(identity.public_key).decode()


def trust_file(path, **document):
    path.write_text(json.dumps(document))
    path.chmod(0o644)
    return path


def test_a_secret_alone_is_enough_with_an_identity_of_the_moment():
    made = Credentials.of_rank(1, NAMES, trust=Trust(secret=SECRET))
    again = Credentials.of_rank(1, NAMES, trust=Trust(secret=SECRET))
    assert made.identity.public_key != again.identity.public_key


def test_files_of_the_environment_give_each_rank_its_own(tmp_path, monkeypatch):
    keys = [base64_of(identity) for identity in IDENTITIES]
    for rank, identity in enumerate(IDENTITIES):
        identity.save(tmp_path / f"rank-{rank}.key")
    monkeypatch.setenv("SEALFABRIC_TRUST", str(trust_file(tmp_path / "trust.json", ranks=keys)))
    monkeypatch.setenv("SEALFABRIC_IDENTITY", str(tmp_path / "rank-{rank}.key"))
    for rank, identity in enumerate(IDENTITIES):
        made = Credentials.of_rank(rank, NAMES)
        assert made.identity.public_key == identity.public_key
        assert all(made.trust.pinned(name) for name in NAMES)


def test_ranks_and_names_stand_together_in_a_trust_file(tmp_path):
    one, two = map(base64_of, IDENTITIES[:2])
    trust = Trust.load(trust_file(tmp_path / "a", ranks=[one], peers={"store": two}))
    assert trust.pinned("rank-0") == IDENTITIES[0].public_key
    assert trust.pinned("store") == IDENTITIES[1].public_key
    assert not trust.knows("rank-1")


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"ranks": {"0": "x"}}, "`ranks` must be a list"),
        ({"ranks": [7]}, "rank 0 must be a base64 string"),
        ({"ranks": ["!"]}, "rank 0 is not valid base64"),
        ({"ranks": ["AAAA"]}, "'rank-0' is 3 bytes long"),
        ({"ranks": ["AAAA"], "peers": {"rank-0": "AAAA"}}, "in `ranks`, and in `peers`"),
    ],
)
def test_malformed_ranks_are_refused(document, words, tmp_path):
    with pytest.raises(UsageError, match=words):
        Trust.load(trust_file(tmp_path / "trust.json", **document))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "no trust is configured: set SEALFABRIC_SECRET_FILE"),
        ({"trust": PINNED}, "set SEALFABRIC_IDENTITY to the path of its key file"),
        ({"trust": PINNED, "identity": IDENTITIES[0]}, "the key of rank 1 ('rank-1') is SF1-"),
        (
            {"trust": Trust(peers={NAMES[1]: IDENTITIES[1].public_key}), "identity": IDENTITIES[1]},
            "pins no key for rank 0 ('rank-0'), rank 2 ('rank-2')",
        ),
    ],
)
def test_what_can_never_work_is_refused_at_the_start(arguments, words):
    error = error_of(lambda: Credentials.of_rank(1, NAMES, **arguments))
    assert isinstance(error, UsageError)
    assert words in str(error)


# --- processes -----------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path):
    """An authority, an approved program, and a policy that asks for just that."""
    EmbeddedAuthority.create(tmp_path / "authority", now=time.time())
    for name in ("approved", "changed"):
        (tmp_path / f"{name}.py").write_text(f"print({name!r})\n")
    approved = EmbeddedAttester.load(tmp_path / "authority", script=tmp_path / "approved.py")
    policy = {"pcrs": {"0": [approved.pcrs[0].hex()]}, "roots": ["authority/root.pem"]}
    (tmp_path / "policy.json").write_text(json.dumps(policy))
    return tmp_path


def described(folder, name, identities, program="approved.py"):
    """A trust file with pinned ranks, secret, policy and attester, as the variable names it."""
    path = trust_file(
        folder / f"{name}.json",
        ranks=[base64_of(identity) for identity in identities],
        secret_file="secret",
        policy_file="policy.json",
        attester={"kind": "embedded", "folder": "authority", "script": program},
    )
    return {"SEALFABRIC_TRUST": str(path)}


def keys_of(folder, identities):
    shared_secret(folder)
    for rank, identity in enumerate(identities):
        identity.save(folder / f"rank-{rank}.key")
    return {"SEALFABRIC_IDENTITY": str(folder / "rank-{rank}.key")}


@pytest.mark.slow
def test_a_trust_file_with_keys_secret_policy_and_attester_makes_a_group(world):
    identities = [Identity.generate() for _ in range(2)]
    environment = keys_of(world, identities) | described(world, "trust", identities)
    with job(2, "reduce", environment) as processes:
        answers = [said(process) for process in processes]
        assert [process.wait(30) for process in processes] == [0, 0]
    assert [each["rank"] for each in answers] == [0, 1]
    assert answers[0]["digest"] == answers[1]["digest"]


@pytest.mark.slow
def test_a_wrong_key_and_a_program_not_approved_are_refused_and_named(world):
    identities = [Identity.generate() for _ in range(4)]
    expected = [*identities[:2], Identity.generate(), identities[3]]
    environment = keys_of(world, identities) | described(world, "trust", expected)
    of_rank = {
        2: described(world, "own-key", identities),  # else it would refuse itself
        3: described(world, "changed", expected, program="changed.py"),
    }
    patience = {"CONNECT_TIMEOUT": "8"}
    with job(4, "reduce", environment | patience, of_rank=of_rank) as processes:
        answers = [said(process) for process in processes]
    assert answers[0]["error"] == "TransportTimeoutError"
    text = answers[0]["text"]
    assert "missing: ['rank-2', 'rank-3']" in text
    assert f"'rank-2' presented key {identities[2].fingerprint}" in text
    assert "evidence of peer 'rank-3' refused: " in text
    assert "PCR0" in text
    assert "rank 0 refused: not every rank came" in answers[1]["text"]
    for rank in (2, 3):
        assert answers[rank]["error"] == "AuthenticationError", answers[rank]
