"""Genuine documents verify at their own time; whatever is changed in them is refused."""

from __future__ import annotations

import random
from collections import Counter
from datetime import datetime
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from support.attestation import (
    ANY,
    NOW,
    accept,
    authority,
    certify,
    document_of,
    entries,
    evidence,
    fields,
    leaf,
    manifest,
    signed,
    time_of,
    verifier,
)
from transport.errors import AuthenticationError, UsageError
from transport.identity.attestation import (
    UNCHECKED,
    AttestationPolicy,
    Refusal,
    RefusedEvidenceError,
    Verifier,
)

GENUINE = entries("genuine-aws")
FLIPS = 2000
SEED = 20241
ONE, TWO = b"\x01" * 48, b"\x02" * 48


def refusal_of(document: bytes, judge: Verifier, **bound: Any) -> Refusal:
    with pytest.raises(RefusedEvidenceError) as caught:
        judge.verify(document, **{**ANY, **bound})
    return caught.value.reason


def named(entry: dict[str, Any]) -> str:
    return str(entry["file"])


# --- the shared documents -------------------------------------------------------------


def test_there_are_as_many_genuine_documents_as_the_manifest_says() -> None:
    assert len(GENUINE) == 14
    assert len(manifest()) == 17


@pytest.mark.parametrize("entry", GENUINE, ids=named)
def test_a_genuine_document_verifies_at_its_own_time(entry: dict[str, Any]) -> None:
    own_time = time_of(entry)
    judge = Verifier(None, clock=lambda: own_time, allow_debug=True)
    attested = accept(document_of(entry), judge)
    assert attested.hardware
    assert attested.module_id == entry["module_id"]
    assert attested.digest == entry["digest"]
    assert attested.timestamp == own_time
    assert attested.debug is entry["debug_mode"]
    nonzero = {str(index): value.hex() for index, value in attested.pcrs.items() if any(value)}
    assert nonzero == entry["pcrs"]
    for field in ("public_key", "user_data", "nonce"):
        value = getattr(attested, field)
        assert (None if value is None else value.hex()) == entry[field]
    last = attested.chain[-1]
    assert last.not_before == datetime.fromisoformat(entry["leaf_not_before"]).timestamp()
    assert last.not_after == datetime.fromisoformat(entry["leaf_not_after"]).timestamp()


@pytest.mark.parametrize("entry", GENUINE, ids=named)
def test_a_genuine_document_is_refused_an_hour_after_its_leaf_expired(
    entry: dict[str, Any],
) -> None:
    later = datetime.fromisoformat(entry["leaf_not_after"]).timestamp() + 3600
    judge = Verifier(None, clock=lambda: later, allow_debug=True)
    assert refusal_of(document_of(entry), judge) is Refusal.EXPIRED


@pytest.mark.parametrize("entry", GENUINE, ids=named)
def test_a_genuine_document_is_refused_before_its_time(entry: dict[str, Any]) -> None:
    earlier = datetime.fromisoformat(entry["leaf_not_before"]).timestamp() - 61
    judge = Verifier(None, clock=lambda: earlier, allow_debug=True)
    assert refusal_of(document_of(entry), judge) is Refusal.NOT_YET_VALID


@pytest.mark.parametrize("entry", [each for each in GENUINE if each["debug_mode"]], ids=named)
def test_a_document_in_debug_mode_is_refused_unless_that_is_allowed(entry: dict[str, Any]) -> None:
    own_time = time_of(entry)
    assert refusal_of(document_of(entry), Verifier(None, clock=lambda: own_time)) is Refusal.DEBUG


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (entries("genuine-payload-tampered")[0], Refusal.SIGNATURE),
        (entries("not-aws")[0], Refusal.SELF_SIGNED),
        (entries("not-aws")[1], Refusal.FOREIGN_ROOT),
    ],
    ids=lambda value: named(value) if isinstance(value, dict) else None,
)
def test_tampered_and_foreign_documents_are_refused_each_for_its_reason(
    entry: dict[str, Any], reason: Refusal
) -> None:
    own_time = time_of(entry)
    judge = Verifier(None, clock=lambda: own_time, allow_debug=True)
    assert refusal_of(document_of(entry), judge) is reason


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_no_single_bit_of_a_genuine_document_can_be_flipped() -> None:
    chance = random.Random(SEED)
    reasons: Counter[Refusal] = Counter()
    judges = {}
    for entry in GENUINE:
        judges[named(entry)] = Verifier(
            None, clock=lambda entry=entry: time_of(entry), allow_debug=True
        )
        accept(document_of(entry), judges[named(entry)])
    for _ in range(FLIPS):
        entry = chance.choice(GENUINE)
        damaged = bytearray(document_of(entry))
        bit = chance.randrange(8 * len(damaged))
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            accept(bytes(damaged), judges[named(entry)])
        except RefusedEvidenceError as refusal:
            reasons[refusal.reason] += 1
        else:
            pytest.fail(f"{named(entry)} with bit {bit} flipped was accepted (seed {SEED})")
    assert reasons.total() == FLIPS
    assert {Refusal.SIGNATURE, Refusal.CHAIN, Refusal.MALFORMED} <= reasons.keys()


def test_every_bit_of_the_envelope_counts() -> None:
    # The few bytes around payload and signature are where a lenient parser would not notice.
    entry = GENUINE[0]
    genuine = document_of(entry)
    judge = Verifier(None, clock=lambda: time_of(entry), allow_debug=True)
    accept(genuine, judge)
    around = [*range(10), *range(len(genuine) - 98, len(genuine))]
    for bit in (8 * place + shift for place in around for shift in range(8)):
        damaged = bytearray(genuine)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(RefusedEvidenceError):
            accept(bytes(damaged), judge)


@pytest.mark.parametrize("entry", GENUINE[:3], ids=named)
def test_a_document_cut_short_or_prolonged_is_refused(entry: dict[str, Any]) -> None:
    genuine = document_of(entry)
    own_time = time_of(entry)
    judge = Verifier(None, clock=lambda: own_time, allow_debug=True)
    for length in {0, 1, 2, 5, 9, 100, len(genuine) // 2, len(genuine) - 97, len(genuine) - 1}:
        with pytest.raises(RefusedEvidenceError):
            accept(genuine[:length], judge)
    assert refusal_of(genuine + b"\0", judge) is Refusal.MALFORMED
    assert refusal_of(genuine + genuine, judge) is Refusal.MALFORMED


def test_tag_18_in_front_is_accepted_and_any_other_is_not() -> None:
    genuine = evidence()
    assert accept(b"\xd2" + genuine, verifier()) == accept(genuine, verifier())
    for other in (b"\xd1", b"\xd3", b"\xd2\xd2", b"\xd8\x12", b"\xd9\xd9\xf7"):
        assert refusal_of(other + genuine, verifier()) is Refusal.MALFORMED


# --- what is made here ------------------------------------------------------------------


def test_a_sound_document_is_accepted_under_its_root_and_is_no_hardware() -> None:
    attested = accept(evidence(), verifier())
    assert not attested.hardware
    assert attested.root == authority()[0].root.fingerprint
    assert attested.signer is None
    assert [each.subject for each in attested.chain] == [
        "CN=test root",
        "CN=test issuer",
        "CN=leaf",
    ]


def test_the_signature_is_checked_over_the_bytes_as_they_came() -> None:
    # The same map in indefinite form: valid as signed, invalid under the other's signature.
    chain = authority()
    definite = cbor2.dumps(fields(*chain))
    indefinite = b"\xbf" + definite[1:] + b"\xff"
    genuine = signed(indefinite, chain[-1].key)
    assert accept(genuine, verifier()).module_id == "i-0-enc0"
    parts = cbor2.loads(signed(definite, chain[-1].key))
    swapped = cbor2.dumps([parts[0], {}, indefinite, parts[3]])
    assert refusal_of(swapped, verifier()) is Refusal.SIGNATURE


def test_the_signature_of_another_document_or_key_does_not_verify() -> None:
    chain = authority()
    other = leaf(chain[1])
    payload = cbor2.dumps(fields(*chain))
    assert refusal_of(signed(payload, other.key), verifier()) is Refusal.SIGNATURE
    first, second = cbor2.loads(evidence()), cbor2.loads(evidence(nonce=b"n"))
    mixed = cbor2.dumps([first[0], {}, second[2], first[3]])
    assert refusal_of(mixed, verifier()) is Refusal.SIGNATURE
    assert encode_dss_signature(0, 0)  # zeros are well formed, and verify for no key
    zeros = cbor2.dumps([first[0], {}, first[2], bytes(96)])
    assert refusal_of(zeros, verifier()) is Refusal.SIGNATURE


@pytest.mark.parametrize(
    ("change", "bound", "reason"),
    [
        ({"public_key": b"k"}, {"public_key": b"K"}, Refusal.PUBLIC_KEY),
        ({"public_key": b"k"}, {"public_key": None}, Refusal.PUBLIC_KEY),
        ({"public_key": None}, {"public_key": b"k"}, Refusal.PUBLIC_KEY),
        ({"public_key": b""}, {"public_key": None}, Refusal.PUBLIC_KEY),
        ({"user_data": b"u"}, {"user_data": b"uu"}, Refusal.USER_DATA),
        ({"user_data": None}, {"user_data": b""}, Refusal.USER_DATA),
        ({"nonce": b"n"}, {"nonce": b"m"}, Refusal.NONCE),
        ({"nonce": None}, {"nonce": b"n"}, Refusal.NONCE),
    ],
)
def test_what_a_document_is_bound_to_must_be_exactly_that(
    change: dict[str, Any], bound: dict[str, Any], reason: Refusal
) -> None:
    document = evidence(**change)
    assert refusal_of(document, verifier(), **bound) is reason
    field, found = next(iter(change.items()))
    assert getattr(accept(document, verifier()), field) == found
    verifier().verify(document, **{**ANY, field: found})


def test_nothing_is_left_unchecked_by_omission() -> None:
    with pytest.raises(TypeError):
        verifier().verify(evidence(), public_key=UNCHECKED, user_data=UNCHECKED)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("age", "reason"),
    [(301.0, Refusal.STALE), (-61.0, Refusal.FROM_THE_FUTURE), (299.0, None), (-59.0, None)],
)
def test_a_document_must_be_fresh_by_the_verifiers_clock(
    age: float, reason: Refusal | None
) -> None:
    judge = verifier(AttestationPolicy({0: [ONE]}), now=NOW + age)
    if reason is None:
        accept(evidence(), judge)
    else:
        assert refusal_of(evidence(), judge) is reason


def test_without_a_policy_age_is_not_judged_but_the_future_is() -> None:
    accept(evidence(), verifier(now=NOW + 3000))
    assert refusal_of(evidence(), verifier(now=NOW - 61)) is Refusal.FROM_THE_FUTURE


@pytest.mark.parametrize(
    ("pcrs", "accepted"),
    [
        ({0: [ONE]}, True),
        ({0: [TWO, ONE], 1: [TWO]}, True),
        ({0: [TWO]}, False),
        ({0: [ONE], 1: [ONE]}, False),
        ({7: [ONE]}, False),
    ],
)
def test_every_register_that_a_policy_names_must_hold_one_of_its_values(
    pcrs: dict[int, list[bytes]], accepted: bool
) -> None:
    judge = verifier(AttestationPolicy(pcrs))
    if accepted:
        accept(evidence(), judge)
    else:
        assert refusal_of(evidence(), judge) is Refusal.PCR


def test_debug_mode_is_all_of_pcr_0_to_2_being_zero() -> None:
    zero = bytes(48)
    debug = evidence(pcrs={0: zero, 1: zero, 2: zero, 3: ONE})
    assert refusal_of(debug, verifier()) is Refusal.DEBUG
    assert refusal_of(evidence(pcrs={3: ONE}), verifier()) is Refusal.DEBUG
    assert accept(debug, verifier(allow_debug=True)).debug
    assert accept(debug, verifier(AttestationPolicy({3: [ONE]}, allow_debug=True))).debug
    assert refusal_of(debug, verifier(AttestationPolicy({3: [ONE]}))) is Refusal.DEBUG
    assert not accept(evidence(pcrs={0: ONE, 1: zero, 2: zero}), verifier()).debug


def test_pcr_8_is_the_signer() -> None:
    assert accept(evidence(pcrs={0: ONE, 8: TWO}), verifier()).signer == TWO
    assert accept(evidence(pcrs={0: ONE, 8: bytes(48)}), verifier()).signer is None


def test_no_evidence_is_refused_where_evidence_is_asked_for() -> None:
    assert refusal_of(b"", verifier()) is Refusal.MISSING


def test_the_peer_is_told_the_same_whatever_the_reason() -> None:
    texts = set()
    for document in (b"", b"\0", evidence()[:-1], evidence(nonce=b"n"), bytes(20_000)):
        with pytest.raises(AuthenticationError) as caught:
            verifier().verify(document, public_key=b"k", user_data=b"u", nonce=b"n")
        texts.add(str(caught.value))
        assert isinstance(caught.value, RefusedEvidenceError)
        assert caught.value.explanation.startswith(f"{caught.value.reason.value}: ")
    assert len(texts) == 1


def test_a_chain_that_was_verified_once_still_expires() -> None:
    now = NOW
    judge = Verifier(None, clock=lambda: now, roots=[authority()[0].root])
    accept(evidence(), judge)
    now = NOW + 3601
    assert refusal_of(evidence(), judge) is Refusal.EXPIRED


def test_a_remembered_chain_opens_no_door_for_another() -> None:
    judge = verifier()
    accept(evidence(), judge)
    foreign = certify("test root", path_length=1)
    issuer = certify("test issuer", foreign, path_length=0)
    own = leaf(issuer)
    chain = (foreign, issuer, own)
    assert refusal_of(signed(cbor2.dumps(fields(*chain)), own.key), judge) is Refusal.FOREIGN_ROOT
    mixed = fields(authority()[0], authority()[1], own)
    assert refusal_of(signed(cbor2.dumps(mixed), own.key), judge) is Refusal.CHAIN


def test_many_chains_are_remembered_in_bounded_memory() -> None:
    judge = verifier()
    root, issuer, _ = authority()
    key = leaf(issuer).key
    for number in range(80):
        own = leaf(issuer, key=key, end=NOW + 3600 + number)
        accept(signed(cbor2.dumps(fields(root, issuer, own)), key), judge)
    accept(evidence(), judge)


def test_a_verifier_says_at_once_that_it_could_never_accept_anything() -> None:
    with pytest.raises(UsageError, match="without roots"):
        verifier(roots=[])
    with pytest.raises(UsageError, match="AttestationPolicy, got dict"):
        Verifier({}, clock=lambda: NOW)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="this clock says 0: nothing could verify"):
        Verifier(None, clock=lambda: 0.0).check_clock()
    Verifier(None, clock=lambda: NOW).check_clock()
