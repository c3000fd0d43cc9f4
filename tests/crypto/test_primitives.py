"""The algorithms against Wycheproof, and the refusals that the wrapper adds to them."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from support.vectors import vectors
from transport.crypto.primitives import (
    CIPHERS,
    HASHES,
    MLKEM768,
    X25519,
    Aead,
    InvalidTag,
    hkdf_sha512,
    hkdf_sha512_expand,
    hkdf_sha512_extract,
    noise_hkdf,
    wipe,
)
from transport.errors import AuthenticationError, UsageError

KEY = bytes(range(32))
NONCE = bytes(range(12))

unhex = bytes.fromhex


def wycheproof(name: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield (group, case) for every case of a Wycheproof file."""
    for group in json.loads(vectors(f"wycheproof/{name}").read_text())["testGroups"]:
        for case in group["tests"]:
            yield group, case


def test_x25519_agrees_with_wycheproof_and_refuses_every_zero_secret() -> None:
    zero_secrets = 0
    for _, case in wycheproof("x25519_test.json"):
        pair, public = X25519(unhex(case["private"])), unhex(case["public"])
        if unhex(case["shared"]) == bytes(32):
            zero_secrets += 1
            with pytest.raises(AuthenticationError):
                pair.dh(public)
        else:
            assert pair.dh(public) == unhex(case["shared"]), case["tcId"]
    assert zero_secrets == 31


def test_mlkem768_agrees_with_wycheproof_and_refuses_its_invalid_inputs() -> None:
    refused = 0
    for _, case in wycheproof("mlkem_768_test.json"):
        seed, ciphertext = unhex(case["seed"]), unhex(case["c"])
        if case["result"] == "valid":
            pair = MLKEM768(seed)
            assert pair.decapsulate(ciphertext) == unhex(case["K"]), case["tcId"]
            assert pair.public == unhex(case["ek"]), case["tcId"]
        elif len(seed) != MLKEM768.SEED_LEN:
            refused += 1
            with pytest.raises(UsageError):
                MLKEM768(seed)
        else:
            refused += 1
            with pytest.raises(AuthenticationError):
                MLKEM768(seed).decapsulate(ciphertext)
    assert refused == 40


def test_hkdf_sha512_agrees_with_wycheproof_and_refuses_what_is_too_long() -> None:
    refused = 0
    for _, case in wycheproof("hkdf_sha512_test.json"):
        ikm, salt, info = unhex(case["ikm"]), unhex(case["salt"]), unhex(case["info"])
        if case["result"] == "valid":
            okm = hkdf_sha512(ikm, salt=salt, info=info, length=case["size"])
            assert okm == unhex(case["okm"]), case["tcId"]
        else:
            refused += 1
            with pytest.raises(UsageError, match="16320"):
                hkdf_sha512(ikm, salt=salt, info=info, length=case["size"])
    assert refused == 3


def test_aes_gcm_agrees_with_wycheproof_and_refuses_other_keys_and_nonces() -> None:
    counts = {"sealed": 0, "forged": 0, "key refused": 0, "nonce refused": 0}
    for group, case in wycheproof("aes_gcm_test.json"):
        key, nonce, aad = unhex(case["key"]), unhex(case["iv"]), unhex(case["aad"])
        plaintext, sealed = unhex(case["msg"]), unhex(case["ct"]) + unhex(case["tag"])
        if group["keySize"] != 256:
            counts["key refused"] += 1
            with pytest.raises(UsageError):
                Aead(key)
            continue
        aead = Aead(key)
        if group["ivSize"] != 96:
            counts["nonce refused"] += 1
            assert_nonce_is_refused(aead, nonce, plaintext, aad)
        elif case["result"] == "valid":
            counts["sealed"] += 1
            assert aead.encrypt(nonce, plaintext, aad) == sealed, case["tcId"]
            assert aead.decrypt(nonce, sealed, aad) == plaintext, case["tcId"]
        else:
            counts["forged"] += 1
            with pytest.raises(InvalidTag):
                aead.decrypt(nonce, sealed, aad)
    assert all(counts.values())
    assert sum(counts.values()) == 316


def assert_nonce_is_refused(aead: Aead, nonce: Any, plaintext: bytes, aad: bytes) -> None:
    sealed = plaintext + bytes(16)
    for call in (
        lambda: aead.encrypt(nonce, plaintext, aad),
        lambda: aead.decrypt(nonce, sealed, aad),
        lambda: aead.encrypt_into(nonce, plaintext, aad, bytearray(len(sealed))),
        lambda: aead.decrypt_into(nonce, sealed, aad, bytearray(len(plaintext))),
    ):
        with pytest.raises(ValueError, match="nonce"):
            call()


@pytest.mark.parametrize("length", [0, 1, 8, 11, 13, 16, 128])
def test_aes_gcm_refuses_nonces_that_the_library_would_accept(length: int) -> None:
    assert_nonce_is_refused(Aead(KEY), bytes(length), b"plaintext", b"")


def test_aes_gcm_refuses_a_nonce_whose_length_counts_something_else_than_bytes() -> None:
    twelve_words = memoryview(bytes(48)).cast("I")
    assert_nonce_is_refused(Aead(KEY), twelve_words, b"plaintext", b"")


@pytest.mark.parametrize("length", [0, 16, 24, 31, 33])
def test_aes_gcm_refuses_keys_that_are_not_256_bits(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Aead(bytes(length))


def test_aes_gcm_works_in_place_of_given_buffers() -> None:
    aead, sealed, opened = Aead(KEY), bytearray(25), bytearray(9)
    assert aead.encrypt_into(bytearray(NONCE), memoryview(b"plaintext"), b"aad", sealed) == 25
    assert aead.decrypt_into(NONCE, memoryview(sealed), b"aad", memoryview(opened)) == 9
    assert opened == b"plaintext"
    with pytest.raises(InvalidTag):
        aead.decrypt_into(NONCE, sealed, b"other", opened)
    with pytest.raises(ValueError, match="25 bytes"):
        aead.encrypt_into(NONCE, b"plaintext", b"aad", bytearray(26))
    with pytest.raises(InvalidTag):
        aead.decrypt(NONCE, b"short", b"")


def test_mlkem768_encapsulation_is_opened_by_its_owner_alone() -> None:
    owner, other = MLKEM768(bytes(64)), MLKEM768(b"\1" + bytes(63))
    secret, ciphertext = MLKEM768.encapsulate(owner.public)
    assert (len(secret), len(ciphertext)) == (32, MLKEM768.CIPHERTEXT_LEN)
    assert owner.decapsulate(ciphertext) == secret
    assert other.decapsulate(ciphertext) != secret


@pytest.mark.parametrize("public", [b"", bytes(1183), bytes(1185), b"\xff" * 1184])
def test_mlkem768_refuses_malformed_public_keys(public: bytes) -> None:
    with pytest.raises(AuthenticationError):
        MLKEM768.check_public(public)
    with pytest.raises(AuthenticationError):
        MLKEM768.encapsulate(public)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_x25519_refuses_keys_of_other_lengths(length: int) -> None:
    with pytest.raises(UsageError, match=f"got {length}"):
        X25519(bytes(length))
    with pytest.raises(AuthenticationError):
        X25519(KEY).dh(bytes(length))


def test_hashes_have_the_lengths_that_noise_gives_them() -> None:
    lengths = {name: (each.hash_len, each.block_len) for name, each in HASHES.items()}
    assert lengths == {
        "SHA256": (32, 64),
        "SHA512": (64, 128),
        "BLAKE2s": (32, 64),
        "BLAKE2b": (64, 128),
    }
    for each in HASHES.values():
        assert len(each.hash(b"data")) == each.hash_len == len(each.hmac(b"key", b"data"))
        assert each.new().block_size == each.block_len


def test_hmac_sha512_known_answer() -> None:
    """RFC 4231 section 4.3, test case 2."""
    tag = HASHES["SHA512"].hmac(b"Jefe", b"what do ya want for nothing?")
    assert tag == unhex(
        "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554"
        "9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737"
    )


def test_noise_hkdf_is_rfc_5869_without_info() -> None:
    outputs = noise_hkdf(HASHES["SHA512"], b"s" * 64, b"ikm", 3)
    assert b"".join(outputs) == hkdf_sha512(b"ikm", salt=b"s" * 64, info=b"", length=192)
    assert noise_hkdf(HASHES["SHA512"], b"s" * 64, b"ikm", 2) == outputs[:2]
    with pytest.raises(UsageError, match="2 or 3"):
        noise_hkdf(HASHES["SHA512"], b"s" * 64, b"ikm", 4)


def test_hkdf_expand_gives_at_least_one_byte() -> None:
    prk = hkdf_sha512_extract(b"", b"ikm")
    assert prk == hkdf_sha512_extract(bytes(64), b"ikm")
    assert hkdf_sha512_expand(prk, b"info", 100)[:1] == hkdf_sha512_expand(prk, b"info", 1)
    with pytest.raises(UsageError, match="asked for 0"):
        hkdf_sha512_expand(prk, b"info", 0)


def test_noise_nonces_differ_in_byte_order() -> None:
    number = 0x0102030405060708
    assert CIPHERS["AESGCM"].nonce(number) == unhex("000000000102030405060708")
    assert CIPHERS["ChaChaPoly"].nonce(number) == unhex("000000000807060504030201")


def test_wipe_overwrites_in_place() -> None:
    secret = bytearray(b"secret")
    wipe(secret)
    assert secret == bytearray(6)


@pytest.mark.parametrize("holder", [X25519(KEY), MLKEM768(KEY + KEY), Aead(KEY)])
def test_holders_of_keys_are_not_copied_pickled_or_shown(holder: object) -> None:
    for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            duplicate(holder)
    assert repr(holder) == f"<{type(holder).__name__}>"
