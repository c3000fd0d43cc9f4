"""Our key service: whom it releases keys to, and what it refuses, each for its own reason."""

from __future__ import annotations

import functools
import json
import logging
import sqlite3

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from support.kms import CONTEXT, KEY, World, recipient, spki, world
from transport.errors import PeerRefusedError, UsageError
from transport.identity.attestation import AttestationPolicy, EmbeddedAuthority
from transport.identity.kms import (
    AttestedKeys,
    AuditError,
    EmbeddedKeyService,
    Reason,
    policy_text,
)
from transport.identity.kms import embedded as module
from transport.identity.kms.cms import open_envelope
from transport.identity.kms.embedded import HERE, REFUSED
from transport.identity.kms.interface import Operation, request_binding


@pytest.fixture
def made(tmp_path):
    with world(tmp_path) as made:
        yield made


@pytest.fixture
def ciphertext(made) -> bytes:
    """Of a data key that the approved program made."""
    _, ciphertext = made.keys().generate_data_key(KEY, CONTEXT)
    return ciphertext


def evidence_for(
    made: World,
    ciphertext: bytes,
    *,
    context=CONTEXT,
    operation=Operation.DECRYPT,
    attester=None,
    public_key: bytes | None = None,
    caller: str = HERE,
    service: EmbeddedKeyService | None = None,
) -> bytes:
    """Evidence as `AttestedKeys` makes it, but for what a test changes."""
    challenge = (service or made.service).challenge(caller)
    binding = request_binding(operation, ciphertext, context, challenge)
    chosen = spki(recipient()) if public_key is None else public_key
    return (attester or made.attester).evidence(chosen, binding, challenge)


def audited(made: World) -> list[dict]:
    lines = (made.path / "keys" / "audit.log").read_bytes().splitlines()
    return [json.loads(line.partition(b" ")[2]) for line in lines]


def assert_refused(made: World, reason: Reason, ask, detail: str = "") -> None:
    """`ask` is refused with the one error, counted, and written down with its reason."""
    granted, counted = made.service.granted, made.service.refusals[reason]
    with pytest.raises(PeerRefusedError) as refused:
        ask()
    assert (type(refused.value), str(refused.value)) == (PeerRefusedError, REFUSED)
    assert made.service.granted == granted
    assert made.service.refusals[reason] == counted + 1, made.service.refusals
    line = audited(made)[-1]
    assert line["event"] == "refused"
    assert line["reason"].startswith(reason.value)
    assert detail in line["reason"]


# --- what it does ----------------------------------------------------------------------------


def test_an_approved_program_gets_its_key(made):
    key, ciphertext = made.keys().generate_data_key(KEY, CONTEXT)
    assert len(key) == 32
    assert bytes(key) not in ciphertext
    assert made.keys().decrypt(ciphertext, CONTEXT) == key
    assert made.service.granted == 2


def test_every_data_key_is_another(made):
    keys = made.keys()
    assert keys.generate_data_key(KEY, CONTEXT) != keys.generate_data_key(KEY, CONTEXT)


def test_a_release_is_written_down_before_it_is_answered(made, ciphertext):
    line = audited(made)[-1]
    assert line["event"] == "released"
    assert line["operation"] == "generate data key"
    assert (line["key"], line["version"], line["context"]) == (KEY, 1, CONTEXT)
    assert line["pcr0"] == made.attester.pcrs[0].hex()
    assert line["caller"] == HERE


def test_no_log_holds_a_key(made, caplog):
    caplog.set_level(logging.DEBUG)
    key, _ciphertext = made.keys().generate_data_key(KEY, CONTEXT)
    material = made.store.material(made.store.record(KEY), 1)
    content = (made.path / "keys" / "audit.log").read_text() + caplog.text
    for secret in (bytes(key), material):
        assert secret.hex() not in content
        assert repr(secret) not in content


def test_what_was_encrypted_before_a_rotation_still_decrypts(made, ciphertext):
    key = made.keys().decrypt(ciphertext, CONTEXT)
    made.folder.rotate(KEY)
    assert made.keys().decrypt(ciphertext, CONTEXT) == key
    _, later = made.keys().generate_data_key(KEY, CONTEXT)
    assert audited(made)[-1]["version"] == 2
    assert made.keys().decrypt(later, CONTEXT)


def test_a_restart_forgets_no_key(made, ciphertext):
    key = made.keys().decrypt(ciphertext, CONTEXT)
    made.service = made.new_service()
    assert made.keys().decrypt(ciphertext, CONTEXT) == key


def test_a_key_that_is_enabled_again_serves_again(made, ciphertext):
    made.folder.enable(KEY, False)
    with pytest.raises(PeerRefusedError):
        made.keys().decrypt(ciphertext, CONTEXT)
    made.folder.enable(KEY)
    assert made.keys().decrypt(ciphertext, CONTEXT)


def test_a_policy_holds_from_the_next_request_on(made, ciphertext):
    changed = made.changed_program()
    theirs = AttestedKeys(made.service, changed)
    with pytest.raises(PeerRefusedError):
        theirs.decrypt(ciphertext, CONTEXT)
    made.folder.set_policy(KEY, AttestationPolicy({0: [changed.pcrs[0]]}, roots=[changed.root]))
    assert theirs.decrypt(ciphertext, CONTEXT)
    with pytest.raises(PeerRefusedError):
        made.keys().decrypt(ciphertext, CONTEXT)


# --- what it refuses ---------------------------------------------------------------------------


def test_a_changed_program_is_refused(made, ciphertext):
    evidence = evidence_for(made, ciphertext, attester=made.changed_program())
    assert_refused(
        made,
        Reason.EVIDENCE,
        lambda: made.service.decrypt(ciphertext, CONTEXT, evidence),
        detail="PCR0",
    )


def test_debug_mode_is_refused(made, ciphertext):
    debug = made.program(made.script, debug=True)
    evidence = evidence_for(made, ciphertext, attester=debug)
    assert_refused(
        made,
        Reason.EVIDENCE,
        lambda: made.service.decrypt(ciphertext, CONTEXT, evidence),
        detail="debug",
    )


def test_stale_evidence_is_refused(made, ciphertext):
    made.folder.set_policy(KEY, made.policy(max_age=10.0))
    evidence = evidence_for(made, ciphertext)
    made.clock.now += 11.0  # the challenge would still be fresh
    assert_refused(
        made,
        Reason.EVIDENCE,
        lambda: made.service.decrypt(ciphertext, CONTEXT, evidence),
        detail="stale",
    )


def test_evidence_with_an_expired_certificate_is_refused(made, ciphertext):
    made.folder.set_policy(KEY, made.policy(max_age=1e6))
    evidence = evidence_for(made, ciphertext)
    made.clock.now += 2 * 3600.0
    assert_refused(
        made,
        Reason.EVIDENCE,
        lambda: made.service.decrypt(ciphertext, CONTEXT, evidence),
        detail="expired",
    )


def test_evidence_under_a_foreign_root_is_refused(made, ciphertext):
    EmbeddedAuthority.create(made.path / "foreign", now=made.clock.now)
    foreign = made.program(made.script, authority="foreign")
    assert foreign.pcrs[0] == made.attester.pcrs[0]
    evidence = evidence_for(made, ciphertext, attester=foreign)
    assert_refused(
        made,
        Reason.EVIDENCE,
        lambda: made.service.decrypt(ciphertext, CONTEXT, evidence),
        detail="root",
    )


def test_tampered_evidence_is_refused(made, ciphertext):
    evidence = bytearray(evidence_for(made, ciphertext))
    evidence[-1] ^= 1
    assert_refused(
        made,
        Reason.EVIDENCE,
        lambda: made.service.decrypt(ciphertext, CONTEXT, bytes(evidence)),
        detail="signature",
    )


@pytest.mark.parametrize("evidence", [b"", b"\x80", b"evidence" * 1000])
def test_what_is_no_evidence_is_refused(made, ciphertext, evidence):
    assert_refused(
        made, Reason.EVIDENCE, lambda: made.service.decrypt(ciphertext, CONTEXT, evidence)
    )


def test_evidence_for_another_key_is_refused(made):
    made.folder.create_key("other", made.policy())
    evidence = evidence_for(made, KEY.encode(), operation=Operation.GENERATE)
    assert_refused(
        made,
        Reason.BINDING,
        lambda: made.service.generate_data_key("other", CONTEXT, evidence),
    )


def test_evidence_for_another_ciphertext_is_refused(made, ciphertext):
    _, other = made.keys().generate_data_key(KEY, CONTEXT)
    evidence = evidence_for(made, other)
    assert_refused(
        made, Reason.BINDING, lambda: made.service.decrypt(ciphertext, CONTEXT, evidence)
    )


def test_evidence_for_another_context_is_refused(made, ciphertext):
    evidence = evidence_for(made, ciphertext)
    assert_refused(
        made, Reason.BINDING, lambda: made.service.decrypt(ciphertext, {"model": "m2"}, evidence)
    )


def test_evidence_for_another_operation_is_refused(made, ciphertext):
    evidence = evidence_for(made, ciphertext, operation=Operation.GENERATE)
    assert_refused(
        made, Reason.BINDING, lambda: made.service.decrypt(ciphertext, CONTEXT, evidence)
    )


def test_a_link_s_evidence_is_refused(made, ciphertext):
    of_a_link = made.attester.evidence(bytes(32), bytes(64), made.service.challenge())
    assert_refused(
        made, Reason.BINDING, lambda: made.service.decrypt(ciphertext, CONTEXT, of_a_link)
    )


def test_another_context_than_was_encrypted_under_is_refused(made, ciphertext):
    other = CONTEXT | {"shard": "8"}
    assert_refused(made, Reason.CIPHERTEXT, lambda: made.keys().decrypt(ciphertext, other))


def test_a_disabled_key_is_refused_at_once(made, ciphertext):
    evidence = evidence_for(made, ciphertext)
    made.folder.enable(KEY, False)
    assert_refused(
        made, Reason.DISABLED, lambda: made.service.decrypt(ciphertext, CONTEXT, evidence)
    )
    assert_refused(made, Reason.DISABLED, lambda: made.keys().generate_data_key(KEY, CONTEXT))


def test_a_replayed_request_is_refused(made, ciphertext):
    evidence = evidence_for(made, ciphertext)
    first = made.service.decrypt(ciphertext, CONTEXT, evidence)
    assert open_envelope(first, recipient())
    assert_refused(
        made,
        Reason.CHALLENGE,
        lambda: made.service.decrypt(ciphertext, CONTEXT, evidence),
        detail="replay",
    )


def test_a_request_of_before_a_restart_is_refused(made, ciphertext):
    evidence = evidence_for(made, ciphertext)
    made.service = made.new_service()
    assert_refused(
        made, Reason.CHALLENGE, lambda: made.service.decrypt(ciphertext, CONTEXT, evidence)
    )


def test_an_old_challenge_is_refused(made, ciphertext):
    evidence = evidence_for(made, ciphertext)
    made.clock.now += 61.0  # the evidence itself may be five minutes old
    assert_refused(
        made,
        Reason.CHALLENGE,
        lambda: made.service.decrypt(ciphertext, CONTEXT, evidence),
        detail="expired",
    )


def test_a_challenge_of_another_caller_is_refused(made, ciphertext):
    evidence = evidence_for(made, ciphertext, caller="somebody")
    assert_refused(
        made,
        Reason.CHALLENGE,
        lambda: made.service.decrypt(ciphertext, CONTEXT, evidence, caller="else"),
    )


def test_evidence_without_a_challenge_is_refused(made, ciphertext):
    binding = request_binding(Operation.DECRYPT, ciphertext, CONTEXT, b"")
    evidence = made.attester.evidence(spki(recipient()), binding, None)
    assert_refused(
        made, Reason.CHALLENGE, lambda: made.service.decrypt(ciphertext, CONTEXT, evidence)
    )


@functools.cache
def wrong_recipients() -> dict[str, bytes]:
    elliptic = ec.generate_private_key(ec.SECP256R1()).public_key()
    exponent = rsa.generate_private_key(3, 2048)
    return {
        "a longer key": spki(rsa.generate_private_key(65537, 3072)),
        "another exponent": spki(exponent),
        "an elliptic curve": elliptic.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "PKCS #1": recipient().public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1),
        "no key": b"no key",
    }


@pytest.mark.parametrize(
    "which", ["a longer key", "another exponent", "an elliptic curve", "PKCS #1", "no key"]
)
def test_a_recipient_key_of_another_kind_is_refused(made, ciphertext, which):
    evidence = evidence_for(made, ciphertext, public_key=wrong_recipients()[which])
    assert_refused(
        made, Reason.RECIPIENT, lambda: made.service.decrypt(ciphertext, CONTEXT, evidence)
    )


def test_a_tampered_ciphertext_is_refused(made, ciphertext):
    changed = ciphertext[:-1] + bytes((ciphertext[-1] ^ 1,))
    assert_refused(made, Reason.CIPHERTEXT, lambda: made.keys().decrypt(changed, CONTEXT))


@pytest.mark.parametrize("ciphertext", [b"", b"x", b"SFK1", b"SFK1" + bytes(300)])
def test_what_is_no_ciphertext_is_refused(made, ciphertext):
    assert_refused(made, Reason.MALFORMED, lambda: made.keys().decrypt(ciphertext, CONTEXT))


def test_a_ciphertext_of_a_retired_version_is_refused(made, ciphertext):
    made.folder.rotate(KEY)
    assert made.keys().decrypt(ciphertext, CONTEXT)
    made.folder.retire(KEY, 2)
    assert_refused(made, Reason.UNKNOWN_KEY, lambda: made.keys().decrypt(ciphertext, CONTEXT))


@pytest.mark.parametrize("key_id", ["absent", "", "../keys", "k" * 1000, "ä"])
def test_an_unknown_key_is_refused(made, key_id):
    assert_refused(made, Reason.UNKNOWN_KEY, lambda: made.keys().generate_data_key(key_id, CONTEXT))


def test_an_external_key_is_not_released(made):
    made.add_external("aws")
    assert_refused(made, Reason.PURPOSE, lambda: made.keys().generate_data_key("aws", CONTEXT))


def test_a_key_whose_record_was_edited_is_refused(made, ciphertext):
    connection = sqlite3.connect(made.path / "keys" / "keys.db")
    with connection:
        connection.execute("UPDATE keys SET record = replace(record, 'revision', 'revisiom')")
    connection.close()
    assert_refused(made, Reason.DAMAGED, lambda: made.keys().decrypt(ciphertext, CONTEXT))


def test_a_context_that_is_not_usable_is_the_callers_mistake(made, ciphertext):
    with pytest.raises(UsageError, match="encryption context"):
        made.service.decrypt(ciphertext, {}, b"")
    assert made.service.refusals.total() == 0


# --- when writing it down fails ----------------------------------------------------------------


def test_nothing_is_released_that_cannot_be_written_down(made, ciphertext):
    evidence = evidence_for(made, ciphertext)
    log = made.path / "keys" / "audit.log"
    log.write_bytes(b"")  # tampered with, while the service runs
    with pytest.raises(AuditError):
        made.service.decrypt(ciphertext, CONTEXT, evidence)
    assert made.service.granted == 1


def test_a_flood_of_refusals_does_not_fill_the_disk(made, monkeypatch):
    monkeypatch.setattr(module, "_REFUSALS_A_MINUTE", 3)
    for _ in range(10):
        made.service.refuse_malformed("x", caller="flooder")
    assert made.service.refusals[Reason.MALFORMED] == 10
    assert [line["event"] for line in audited(made)].count("refused") == 3
    made.clock.now += 61.0
    made.service.refuse_malformed("y", caller="flooder")
    assert audited(made)[-1]["refusals_omitted_before"] == 7


# --- at the start ------------------------------------------------------------------------------


def test_a_clock_that_is_wrong_is_noticed_at_the_start(made):
    made.service.check()
    made.clock.now -= 365 * 86400.0
    with pytest.raises(UsageError, match=KEY):
        made.service.check()


def test_a_policy_that_can_never_hold_is_noticed_at_the_start(made):
    text = json.loads(policy_text(made.policy())) | {"pcrs": {"77": ["00" * 48]}}
    made.store.set_policy(KEY, json.dumps(text))
    with pytest.raises(UsageError, match=f"{KEY}.*PCR 77"):
        made.service.check()
