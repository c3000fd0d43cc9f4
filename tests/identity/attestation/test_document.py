"""Every field of a document has its type, its limit and its absence; nothing else is taken."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
from typing import Any

import cbor2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from support.attestation import (
    accept,
    authority,
    document_of,
    entries,
    evidence,
    fields,
    signed,
    time_of,
    verifier,
)
from support.source_tree import PROJECT_ROOT
from transport.identity.attestation import (
    Refusal,
    RefusedEvidenceError,
    Verifier,
    cbor,
    cose,
    document,
)

MISSING = object()


def refusal_of(payload: bytes) -> Refusal:
    with pytest.raises(RefusedEvidenceError) as caught:
        document.parse(payload)
    return caught.value.reason


def payload(**changes: Any) -> bytes:
    return cbor2.dumps(
        {k: v for k, v in fields(*authority(), **changes).items() if v is not MISSING}
    )


def test_a_document_survives_its_own_encoding() -> None:
    claims = document.parse(payload(nonce=b"n", user_data=b"", public_key=bytes(1024)))
    assert document.parse(document.encode(claims)) == claims


def test_optional_fields_may_be_null_or_absent() -> None:
    absent = payload(public_key=MISSING, user_data=MISSING, nonce=MISSING)
    assert document.parse(absent) == document.parse(payload())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"module_id": MISSING}, Refusal.MALFORMED),
        ({"module_id": None}, Refusal.MALFORMED),
        ({"module_id": b"i-0"}, Refusal.MALFORMED),
        ({"module_id": ""}, Refusal.MALFORMED),
        ({"module_id": "two\nlines"}, Refusal.MALFORMED),
        ({"module_id": "x" * 256}, Refusal.TOO_LARGE),
        ({"digest": MISSING}, Refusal.MALFORMED),
        ({"digest": "SHA256"}, Refusal.ALGORITHM),
        ({"digest": 384}, Refusal.MALFORMED),
        ({"timestamp": 0}, Refusal.MALFORMED),
        ({"timestamp": -1}, Refusal.MALFORMED),
        ({"timestamp": True}, Refusal.MALFORMED),
        ({"timestamp": 1.5e12}, Refusal.MALFORMED),
        ({"timestamp": 1 << 60}, Refusal.MALFORMED),
        ({"timestamp": 1 << 80}, Refusal.MALFORMED),
        ({"pcrs": {}}, Refusal.MALFORMED),
        ({"pcrs": None}, Refusal.MALFORMED),
        ({"pcrs": [bytes(48)]}, Refusal.MALFORMED),
        ({"pcrs": {32: bytes(48)}}, Refusal.MALFORMED),
        ({"pcrs": {-1: bytes(48)}}, Refusal.MALFORMED),
        ({"pcrs": {"0": bytes(48)}}, Refusal.MALFORMED),
        ({"pcrs": {False: bytes(48)}}, Refusal.MALFORMED),
        ({"pcrs": {0: bytes(47)}}, Refusal.MALFORMED),
        ({"pcrs": {0: "0" * 48}}, Refusal.MALFORMED),
        ({"certificate": b""}, Refusal.MALFORMED),
        ({"certificate": None}, Refusal.MALFORMED),
        ({"certificate": bytes(1025)}, Refusal.TOO_LARGE),
        ({"cabundle": []}, Refusal.SELF_SIGNED),
        ({"cabundle": None}, Refusal.SELF_SIGNED),
        ({"cabundle": {}}, Refusal.MALFORMED),
        ({"cabundle": b"root"}, Refusal.MALFORMED),
        ({"cabundle": [b""]}, Refusal.MALFORMED),
        ({"cabundle": [None]}, Refusal.MALFORMED),
        ({"cabundle": [bytes(1025)]}, Refusal.TOO_LARGE),
        ({"cabundle": [b"x"] * 9}, Refusal.TOO_LARGE),
        ({"public_key": bytes(1025)}, Refusal.TOO_LARGE),
        ({"user_data": bytes(1025)}, Refusal.TOO_LARGE),
        ({"nonce": bytes(1025)}, Refusal.TOO_LARGE),
        ({"nonce": "text"}, Refusal.MALFORMED),
        ({"nonce": 7}, Refusal.MALFORMED),
        ({"nitrotpm_pcrs": {0: bytes(48)}}, Refusal.OTHER_TYPE),
        ({"nitrotpm_pcrs": {0: bytes(48)}, "pcrs": MISSING}, Refusal.OTHER_TYPE),
        ({"something": 1}, Refusal.OTHER_TYPE),
    ],
)
def test_a_field_that_is_not_as_described_is_refused(
    change: dict[str, Any], reason: Refusal
) -> None:
    assert refusal_of(payload(**change)) is reason


@pytest.mark.parametrize("size", [32, 48, 64])
def test_registers_have_the_sizes_of_the_description(size: int) -> None:
    assert document.parse(payload(pcrs={31: bytes(size)})).pcrs == {31: bytes(size)}


def test_a_nitro_tpm_document_is_of_another_type_even_if_all_else_holds() -> None:
    tpm = fields(*authority())
    tpm["nitrotpm_pcrs"] = tpm.pop("pcrs")
    with pytest.raises(RefusedEvidenceError) as caught:
        accept(signed(cbor2.dumps(tpm), authority()[-1].key), verifier())
    assert caught.value.reason is Refusal.OTHER_TYPE
    assert "nitrotpm_pcrs" in caught.value.detail


def test_a_key_twice_in_a_map_is_refused() -> None:
    once = payload()
    assert once[0] == 0xA9
    twice = bytes([0xAA]) + once[1:] + cbor2.dumps("nonce") + cbor2.dumps(b"another")
    assert refusal_of(twice) is Refusal.MALFORMED
    registers = b"\xa2\x00\x58\x30" + bytes(48) + b"\x00\x58\x30" + b"\x01" * 48
    placed = cbor2.dumps("pcrs") + registers
    plain = cbor2.dumps("pcrs") + cbor2.dumps(fields(*authority())["pcrs"])
    assert plain in once
    assert refusal_of(once.replace(plain, placed)) is Refusal.MALFORMED


def test_maps_of_indefinite_length_are_taken_as_genuine_documents_have_them() -> None:
    definite = payload()
    assert document.parse(b"\xbf" + definite[1:] + b"\xff") == document.parse(definite)
    (entry,) = [each for each in entries("genuine-aws") if each["payload_map"] == "indefinite"]
    assert cose.parse(document_of(entry)).payload[0] == 0xBF


@pytest.mark.parametrize(
    ("protected", "reason"),
    [
        (cbor2.dumps({1: -7}), Refusal.ALGORITHM),  # ES256
        (cbor2.dumps({1: -36}), Refusal.ALGORITHM),
        (cbor2.dumps({}), Refusal.ALGORITHM),
        (cbor2.dumps({1: -35, 4: b"k"}), Refusal.ALGORITHM),
        (cbor2.dumps({1: -35.0}), Refusal.ALGORITHM),
        (cbor2.dumps([1, -35]), Refusal.ALGORITHM),
        (b"", Refusal.MALFORMED),
        (b"\xa1\x01\x38\x22\x00", Refusal.MALFORMED),
        (bytes(17), Refusal.TOO_LARGE),
    ],
)
def test_only_es384_is_accepted(protected: bytes, reason: Refusal) -> None:
    chain = authority()
    forged = signed(payload(), chain[-1].key, protected)
    with pytest.raises(RefusedEvidenceError) as caught:
        accept(forged, verifier())
    assert caught.value.reason is reason


def envelope(*parts: Any) -> bytes:
    return cbor2.dumps(list(parts))


PROTECTED = bytes.fromhex("a1013822")


@pytest.mark.parametrize(
    ("forged", "reason"),
    [
        (envelope(PROTECTED, {}, payload()), Refusal.MALFORMED),
        (envelope(PROTECTED, {}, payload(), bytes(96), 0), Refusal.MALFORMED),
        (cbor2.dumps({0: PROTECTED}), Refusal.MALFORMED),
        (envelope({1: -35}, {}, payload(), bytes(96)), Refusal.MALFORMED),
        (envelope(PROTECTED, {4: b"k"}, payload(), bytes(96)), Refusal.MALFORMED),
        (envelope(PROTECTED, [], payload(), bytes(96)), Refusal.MALFORMED),
        (envelope(PROTECTED, None, payload(), bytes(96)), Refusal.MALFORMED),
        (envelope(PROTECTED, {}, None, bytes(96)), Refusal.MALFORMED),
        (envelope(PROTECTED, {}, payload(), bytes(95)), Refusal.MALFORMED),
        (envelope(PROTECTED, {}, payload(), "s" * 96), Refusal.MALFORMED),
        (envelope(PROTECTED, {}, bytes(16385), bytes(96)), Refusal.TOO_LARGE),
        (bytes(16641), Refusal.TOO_LARGE),
        (b"\x9f" + envelope(PROTECTED, {}, payload(), bytes(96))[1:] + b"\xff", Refusal.MALFORMED),
        (b"\x81" * 5000 + b"\x00", Refusal.MALFORMED),
        (b"\x9b\x7f" + b"\xff" * 7, Refusal.MALFORMED),
        (b"\x5b\x7f" + b"\xff" * 7, Refusal.MALFORMED),
    ],
)
def test_an_envelope_of_another_shape_is_refused(forged: bytes, reason: Refusal) -> None:
    with pytest.raises(RefusedEvidenceError) as caught:
        accept(forged, verifier())
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    "tagged",
    [
        "c074323031332d30332d32315432303a30343a30305a",  # 0: a date
        "c11a514b67b0",  # 1: a time
        "c249010000000000000000",  # 2: a big number
        "c48221196ab3",  # 4: a decimal fraction
        "d81c81d81d00",  # 28 and 29: a list that contains itself
        "d8236161",  # 35: a regular expression
        "d9010281",  # 258: a set
        "d9d9f700",  # 55799: this is CBOR
    ],
)
def test_no_tag_makes_an_object(tagged: str) -> None:
    with pytest.raises(cbor.MalformedCborError):
        cbor.decode(bytes.fromhex(tagged), indefinite=True)


WITHOUT_CBOR2 = """
import sys
sys.modules["cbor2"] = None
from transport.identity.attestation import UNCHECKED, Verifier
try:
    Verifier(None, clock=lambda: 0.0).verify(b"x", public_key=None, user_data=None, nonce=None)
except Exception as error:
    print(type(error).__name__, error)
"""


def test_without_cbor2_the_error_names_what_to_install() -> None:
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT_CBOR2],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert process.stdout.startswith("UsageError attestation needs the package cbor2: ")
    assert "pip install 'sealfabric[attest]'" in process.stdout


# --- no input crashes it ----------------------------------------------------------------

ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | st.binary() | st.text()
ITEMS = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.integers() | st.text(), inner, max_size=4)
    ),
    max_leaves=12,
)
GENUINE = entries("genuine-aws")


def never_crashes(forged: bytes, judge: Verifier) -> None:
    with pytest.raises(RefusedEvidenceError) as caught:
        accept(forged, judge)
    assert caught.value.detail


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(forged: bytes) -> None:
    never_crashes(forged, verifier())


@given(ITEMS)
@example(float("nan"))
def test_any_cbor_is_refused(item: Any) -> None:
    never_crashes(cbor2.dumps(item), verifier())


@given(st.sampled_from(sorted(fields(*authority()))), ITEMS)
def test_any_value_in_any_field_of_a_signed_document_is_judged(field: str, item: Any) -> None:
    forged = evidence(**{field: item})
    try:
        document.parse(payload(**{field: item}))
    except RefusedEvidenceError:
        never_crashes(forged, verifier())
        return
    # Well formed: then it is accepted, or refused for what it says.
    with contextlib.suppress(RefusedEvidenceError):
        accept(forged, verifier())


@given(st.integers(0, 3), ITEMS)
def test_any_part_of_an_envelope_may_be_anything(place: int, item: Any) -> None:
    parts = cbor2.loads(evidence())
    if place == 1 and item == {} and isinstance(item, dict):
        return
    parts[place] = item
    never_crashes(cbor2.dumps(parts), verifier())


@given(st.sampled_from(GENUINE), st.integers(0, 1 << 30), st.integers(1, 40))
def test_a_genuine_document_mutilated_at_random_is_refused(
    entry: dict[str, Any], seed: int, edits: int
) -> None:
    chance, genuine = random.Random(seed), document_of(entry)
    forged = bytearray(genuine)
    for _ in range(edits):
        start = chance.randrange(len(forged))
        size = chance.choice((1, 1, 2, 8, 200))
        match chance.randrange(4):
            case 0:
                del forged[start : start + size]
            case 1:
                forged[start:start] = chance.randbytes(size)
            case 2:
                forged[start : start + size] = chance.randbytes(size)
            case 3:
                source = chance.randrange(len(genuine))
                forged[start : start + size] = genuine[source : source + size]
        if not forged:
            break
    if bytes(forged) != genuine:
        own_time = time_of(entry)
        never_crashes(bytes(forged), Verifier(None, clock=lambda: own_time, allow_debug=True))
