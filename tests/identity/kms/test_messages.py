"""Requests and answers: one encoding for each, and no bytes do any harm."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.kms import CONTEXT
from transport.errors import AuthenticationError, PeerRefusedError
from transport.identity.kms import DataKey, messages
from transport.identity.kms.interface import Operation, encode_context
from transport.identity.kms.messages import (
    EVIDENCE_LIMIT,
    MESSAGE_LIMIT,
    ChallengeRequest,
    KeyRequest,
)
from transport.wire.codec import MalformedError

REQUESTS = [
    ChallengeRequest(),
    KeyRequest(operation=Operation.GENERATE, subject=b"key", context=CONTEXT, evidence=b"evidence"),
    KeyRequest(
        operation=Operation.DECRYPT, subject=b"\0\xff", context={"a": ""}, evidence=b"\0" * 6000
    ),
]
FIELDS = {
    "v": 1,
    "do": "decrypt",
    "subject": b"c",
    "context": encode_context(CONTEXT),
    "evidence": b"e",
}


def packed(**changes: object) -> bytes:
    return msgpack.packb({k: v for k, v in (FIELDS | changes).items() if v is not None})


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda each: type(each).__name__)
def test_a_request_survives_its_encoding(request_):
    assert messages.decode_request(messages.encode_request(request_)) == request_


def test_the_fields_of_this_test_are_those_of_a_request():
    assert isinstance(messages.decode_request(packed()), KeyRequest)


@pytest.mark.parametrize(
    "changes",
    [
        {"v": 2},
        {"v": None},
        {"v": True},
        {"do": "dump"},
        {"do": b"decrypt"},
        {"do": None},
        {"subject": None},
        {"subject": b""},
        {"subject": "text"},
        {"subject": b"x" * 5000},
        {"context": b""},
        {"context": b"\0\x01b\0\0\0\x01a\0\0"},
        {"context": {"a": "b"}},
        {"evidence": None},
        {"evidence": b"x" * (EVIDENCE_LIMIT + 1)},
        {"evidence": [b"x"]},
        {"recipient": b"a key of the caller's choice"},
        {"do": "challenge"},
    ],
    ids=str,
)
def test_another_request_is_malformed(changes):
    with pytest.raises(MalformedError):
        messages.decode_request(packed(**changes))


def test_a_repeated_field_is_malformed():
    pairs = [*FIELDS.items(), ("subject", b"another")]
    repeated = bytes((0x80 | len(pairs),)) + b"".join(
        msgpack.packb(name) + msgpack.packb(value) for name, value in pairs
    )
    assert msgpack.unpackb(repeated)["subject"] == b"another", "msgpack takes the last one"
    with pytest.raises(MalformedError, match="another encoding"):
        messages.decode_request(repeated)


def test_a_message_is_bounded():
    with pytest.raises(MalformedError, match="exceeds"):
        messages.decode_request(bytes(MESSAGE_LIMIT + 1))


def test_answers_survive_their_encoding():
    key = DataKey(ciphertext=b"ciphertext", ciphertext_for_recipient=b"envelope")
    assert messages.decode_data_key(messages.encode_data_key(key)) == key
    assert messages.decode_challenge(messages.encode_challenge(b"challenge")) == b"challenge"


@pytest.mark.parametrize("decode", [messages.decode_data_key, messages.decode_challenge])
def test_a_refusal_is_told_as_one(decode):
    with pytest.raises(PeerRefusedError, match="refused"):
        decode(messages.encode_refusal())


@pytest.mark.parametrize(
    "answer",
    [
        {"v": 1, "ciphertext": b"c", "envelope": b"e", "plaintext": bytes(32)},
        {"v": 1, "ciphertext": b"c", "envelope": b""},
        {"v": 1, "ciphertext": b"c"},
        {"v": 1, "plaintext": bytes(32)},
        {"v": 2, "ciphertext": b"c", "envelope": b"e"},
        {"v": 1, "ciphertext": "c", "envelope": "e"},
        {},
    ],
    ids=str,
)
def test_another_answer_is_one_error(answer):
    with pytest.raises(AuthenticationError, match="cannot be opened"):
        messages.decode_data_key(msgpack.packb(answer))


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_else(encoded):
    for candidate in (encoded, b"\x85" + encoded):
        with pytest.raises(MalformedError):
            messages.decode_request(candidate)
        for decode in (messages.decode_data_key, messages.decode_challenge):
            with pytest.raises((AuthenticationError, PeerRefusedError)):
                decode(candidate)


@given(st.data())
def test_no_damage_raises_anything_else(data):
    encoded = bytearray(messages.encode_request(data.draw(st.sampled_from(REQUESTS))))
    for _ in range(data.draw(st.integers(1, 3))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = messages.decode_request(bytes(encoded))
    except MalformedError:
        return
    assert messages.encode_request(decoded) == encoded, "one encoding for each request"


@pytest.mark.parametrize("depth", [10, 10_000])
def test_deep_nesting_is_malformed(depth):
    with pytest.raises(MalformedError):
        messages.decode_request(b"\x81\xa1a" * depth)
    with pytest.raises(MalformedError):
        messages.decode_request(b"\x91" * depth)
