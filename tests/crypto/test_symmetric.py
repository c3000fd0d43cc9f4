"""CipherState and SymmetricState on their own: counters, rekey, checkpoints."""

from __future__ import annotations

import pytest

from transport.crypto.patterns import Protocol
from transport.crypto.primitives import CIPHERS, HASHES
from transport.crypto.symmetric import CipherState, SymmetricState
from transport.errors import AuthenticationError, KeyExhaustedError, UsageError

KEY = bytes(range(32))
NAME = "Noise_XXhfs+psk3_25519+MLKEM768_AESGCM_SHA512"


def cipher_state(name: str = "AESGCM") -> CipherState:
    return CipherState(CIPHERS[name], KEY)


def test_without_a_key_data_passes_through() -> None:
    state = CipherState(CIPHERS["AESGCM"])
    assert not state.has_key
    assert state.encrypt_with_ad(b"ad", b"data") == b"data"
    assert state.decrypt_with_ad(b"ad", b"data") == b"data"
    assert state.nonce == 0
    with pytest.raises(UsageError):
        state.rekey()


def test_a_nonce_is_spent_by_each_encryption_but_not_by_a_failed_decryption() -> None:
    sender, receiver = cipher_state(), cipher_state()
    first, second = (sender.encrypt_with_ad(b"", b"data") for _ in range(2))
    assert first != second
    assert sender.nonce == 2
    for forged in (second, b"", first[:-1], first + b"\0"):
        with pytest.raises(AuthenticationError):
            receiver.decrypt_with_ad(b"", forged)
    assert receiver.nonce == 0
    assert receiver.decrypt_with_ad(b"", first) == b"data"
    assert receiver.decrypt_with_ad(b"", second) == b"data"


def test_the_last_nonce_is_never_used_for_data() -> None:
    state = cipher_state()
    state.set_nonce(2**64 - 2)
    state.encrypt_with_ad(b"", b"data")
    with pytest.raises(KeyExhaustedError):
        state.encrypt_with_ad(b"", b"data")
    with pytest.raises(KeyExhaustedError):
        state.decrypt_with_ad(b"", bytes(16))


@pytest.mark.parametrize("name", sorted(CIPHERS))
def test_rekey_replaces_the_key_and_keeps_the_counter(name: str) -> None:
    """REKEY(k) is the first 32 bytes of ENCRYPT(k, 2^64 - 1, "", zeros) (section 4.2)."""
    state = cipher_state(name)
    state.encrypt_with_ad(b"", b"data")
    state.rekey()
    cipher = CIPHERS[name]
    fresh = cipher.new(KEY).encrypt(cipher.nonce(2**64 - 1), bytes(32), b"")[:32]
    expected = CipherState(cipher, fresh)
    expected.set_nonce(1)
    assert state.encrypt_with_ad(b"ad", b"data") == expected.encrypt_with_ad(b"ad", b"data")


@pytest.mark.parametrize(
    "name",
    ["Noise_NN_25519_AESGCM_SHA512", "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s", NAME],
)
def test_the_transcript_starts_with_the_name_padded_or_hashed(name: str) -> None:
    protocol = Protocol.parse(name)
    size = HASHES[protocol.hash.name].hash_len
    raw = name.encode()
    expected = raw.ljust(size, b"\0") if len(raw) <= size else protocol.hash.hash(raw)
    assert SymmetricState(protocol).handshake_hash == expected


def test_restoring_a_checkpoint_undoes_everything_since() -> None:
    state, twin = (SymmetricState(Protocol.parse(NAME)) for _ in range(2))
    for each in (state, twin):
        each.mix_key(b"first secret")
        each.encrypt_and_hash(b"first")
    checkpoint = state.checkpoint()
    state.encrypt_and_hash(b"second")
    state.mix_key_and_hash(b"second secret")
    state.mix_hash(b"data")
    state.restore(checkpoint)
    assert state.handshake_hash == twin.handshake_hash
    assert state.encrypt_and_hash(b"third") == twin.encrypt_and_hash(b"third")
    assert state.split_keys() == twin.split_keys()


def test_a_forgotten_state_keeps_only_its_transcript() -> None:
    state = SymmetricState(Protocol.parse(NAME))
    state.mix_key(b"secret")
    keys, transcript = state.split_keys(), state.handshake_hash
    state.forget()
    assert state.handshake_hash == transcript
    assert not state.has_key
    assert state.split_keys() != keys
