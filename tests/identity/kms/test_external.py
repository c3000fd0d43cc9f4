"""Ciphertexts of external keys, and the published example of their encoding."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.vectors import vectors
from transport.identity.kms import external
from transport.identity.kms.external import CiphertextError, ExternalCiphertext

MATERIAL = bytes(range(32))


def test_the_published_example():
    example = {
        name: value
        for name, value in json.loads(vectors("kms/xks_cdiv.json").read_bytes()).items()
        if name not in {"source", "note"}
    }
    given_in_hex = {name: bytes.fromhex(value) for name, value in example.items()}
    encrypted = ExternalCiphertext(
        ciphertext=given_in_hex["ciphertext"],
        metadata=given_in_hex["ciphertextMetadata"],
        iv=given_in_hex["iv"],
        tag=given_in_hex["tag"],
    )
    aad = given_in_hex["aad"]
    assert external.associated_data(aad, encrypted.metadata) == given_in_hex["gcm_aad_input"]
    assert external.data_integrity_value(encrypted, aad) == given_in_hex["cdiv_sha256"]


@given(st.binary(max_size=100), st.binary(max_size=100), st.integers(1, 1000))
def test_what_is_encrypted_decrypts(plaintext, aad, version):
    encrypted = external.encrypt(plaintext, MATERIAL, version, aad)
    assert external.version_of(encrypted) == version
    assert len(encrypted.ciphertext) == len(plaintext)
    assert (len(encrypted.metadata), len(encrypted.iv), len(encrypted.tag)) == (20, 12, 16)
    assert external.decrypt(encrypted, MATERIAL, aad) == plaintext


def opened(encrypted: ExternalCiphertext, aad: bytes) -> bytes:
    """As the proxy opens one."""
    external.version_of(encrypted)
    return external.decrypt(encrypted, MATERIAL, aad)


@pytest.mark.parametrize("field", ["ciphertext", "metadata", "iv", "tag"])
def test_no_bit_can_be_flipped(field):
    encrypted = external.encrypt(b"plaintext", MATERIAL, 1, b"aad")
    fields = {name: getattr(encrypted, name) for name in ("ciphertext", "metadata", "iv", "tag")}
    for bit in range(8 * len(fields[field])):
        changed = bytearray(fields[field])
        changed[bit // 8] ^= 1 << bit % 8
        damaged = ExternalCiphertext(**fields | {field: bytes(changed)})
        with pytest.raises(CiphertextError):
            opened(damaged, b"aad")


def test_metadata_cannot_pass_for_associated_data():
    encrypted = external.encrypt(b"plaintext", MATERIAL, 1, b"")
    assert external.associated_data(encrypted.metadata, b"") != external.associated_data(
        b"", encrypted.metadata
    )
    with pytest.raises(CiphertextError):
        external.decrypt(encrypted, MATERIAL, encrypted.metadata)


def test_another_key_does_not_decrypt():
    encrypted = external.encrypt(b"plaintext", MATERIAL, 1, b"")
    with pytest.raises(CiphertextError):
        external.decrypt(encrypted, bytes(32), b"")
