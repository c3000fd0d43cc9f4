"""A data key's ciphertext: bound to key, version and context, and to every bit of itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.kms import CONTEXT
from transport.identity.kms.datakey import (
    CIPHERTEXT_LIMIT,
    InvalidTag,
    open_data_key,
    parse_data_key,
    seal_data_key,
)

MATERIAL = bytes(range(32))
DATA_KEY = bytes(range(100, 132))


def sealed(**changes: object) -> bytes:
    arguments = {"key_id": "k", "version": 3, "context": CONTEXT} | changes
    return seal_data_key(DATA_KEY, MATERIAL, **arguments)


def opened(ciphertext: bytes, material: bytes = MATERIAL, context=CONTEXT) -> bytes:
    return open_data_key(parse_data_key(ciphertext), material, context)


def test_a_data_key_survives_its_ciphertext():
    parsed = parse_data_key(sealed())
    assert (parsed.key_id, parsed.version) == ("k", 3)
    assert opened(sealed()) == DATA_KEY


def test_the_longest_one():
    assert len(sealed(key_id="k" * 128)) == CIPHERTEXT_LIMIT
    assert opened(sealed(key_id="k" * 128)) == DATA_KEY


def test_two_ciphertexts_of_one_data_key_differ():
    assert sealed() != sealed()


def test_another_key_or_context_does_not_open_it():
    for material, context in ((bytes(32), CONTEXT), (MATERIAL, {"model": "m2"})):
        with pytest.raises(InvalidTag):
            opened(sealed(), material, context)


def test_no_bit_can_be_flipped():
    ciphertext = sealed()
    for bit in range(8 * len(ciphertext)):
        changed = bytearray(ciphertext)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises((ValueError, InvalidTag)):
            opened(bytes(changed))


@given(st.binary(max_size=CIPHERTEXT_LIMIT + 10))
def test_no_bytes_raise_anything_else(ciphertext):
    for candidate in (ciphertext, b"SFK1" + ciphertext):
        with pytest.raises((ValueError, InvalidTag)):
            opened(candidate)
