"""The handshake against public vectors, another implementation, and forgeries."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.vectors import vectors
from transport.crypto.noise import MESSAGE_LIMIT, Entropy, HandshakeState
from transport.crypto.patterns import Protocol
from transport.crypto.primitives import MLKEM768, X25519
from transport.crypto.symmetric import CipherState, SymmetricState
from transport.errors import AuthenticationError, HandshakeError, UsageError

SUITE = "Noise_XXhfs+psk3_25519+MLKEM768_AESGCM_SHA512"
PSK = b"p" * 32
INITIATOR_STATIC = X25519(b"i" * 32)
RESPONDER_STATIC = X25519(b"r" * 32)

unhex = bytes.fromhex


def fixed(
    x25519: str, kem_seed: str = "", encapsulation: tuple[bytes, bytes] | None = None
) -> Entropy:
    """Return an Entropy that gives these values only; any other request is a KeyError."""
    secrets = {32: unhex(x25519), 64: unhex(kem_seed)}

    def encapsulate(public: bytes) -> tuple[bytes, bytes]:
        assert encapsulation is not None
        return encapsulation

    return Entropy(random=secrets.__getitem__, encapsulate=encapsulate)


def pair(name: str = SUITE, /, **responder: Any) -> tuple[HandshakeState, HandshakeState]:
    """Return an initiator and a responder; keywords change the responder alone."""
    common: dict[str, Any] = {"prologue": b"prologue", "psk": PSK if "psk" in name else None}
    theirs: dict[str, Any] = {"protocol_name": name, "s": RESPONDER_STATIC} | common | responder
    return (
        HandshakeState(name, initiator=True, s=INITIATOR_STATIC, **common),
        HandshakeState(initiator=False, **theirs),
    )


def finish(initiator: HandshakeState, responder: HandshakeState) -> None:
    """Exchange what is left of the handshake, and check that both ends agree."""
    while not initiator.finished:
        writer, reader = (initiator, responder) if initiator.my_turn else (responder, initiator)
        assert reader.read_message(writer.write_message(b"payload")) == b"payload"
    assert responder.finished
    assert initiator.handshake_hash == responder.handshake_hash
    assert initiator.split_keys() == responder.split_keys()


# Public vectors


@pytest.mark.parametrize("index", range(68))
def test_public_vectors_of_plain_patterns(index: int) -> None:
    cases = json.loads(vectors("noise/selected_25519_AESGCM.json").read_text())["vectors"]
    assert len(cases) == 68
    case = cases[index]

    def side(role: str) -> HandshakeState:
        keys = {
            argument: unhex(case[f"{role}_{key}"])
            for argument, key in (("s", "static"), ("rs", "remote_static"))
            if f"{role}_{key}" in case
        }
        psks = case.get(f"{role}_psks") or [None]
        return HandshakeState(
            case["protocol_name"],
            initiator=role == "init",
            prologue=unhex(case[f"{role}_prologue"]),
            psk=psks[0] and unhex(psks[0]),
            entropy=fixed(case[f"{role}_ephemeral"]),
            **keys,
        )

    initiator, responder = side("init"), side("resp")
    ciphers: tuple[tuple[CipherState, CipherState], ...] = ()
    for turn, message in enumerate(case["messages"]):
        payload, ciphertext = unhex(message["payload"]), unhex(message["ciphertext"])
        writer, reader = (initiator, responder) if turn % 2 == 0 else (responder, initiator)
        if not writer.finished:
            assert writer.write_message(payload) == ciphertext
            assert reader.read_message(ciphertext) == payload
            continue
        if not ciphers:
            for each in (initiator, responder):
                expected = case.get("handshake_hash", each.handshake_hash.hex())
                assert each.handshake_hash.hex() == expected
            ciphers = tuple(zip(initiator.split(), responder.split(), strict=True))
        ours, theirs = ciphers[turn % 2]
        assert ours.encrypt_with_ad(b"", payload) == ciphertext
        assert theirs.decrypt_with_ad(b"", ciphertext) == payload
    assert ciphers
    assert initiator.handshake_hash == responder.handshake_hash


def recover_encapsulation(case: dict[str, Any]) -> tuple[bytes, bytes]:
    """Return (shared secret, ciphertext) of a vector, which gives only the seed of it.

    The ciphertext is inside message B, encrypted under the key of `e, e1; e, ee`. The
    secret is opened with the initiator's seed, and must also be what FIPS 203 makes
    of the given randomness m: the first half of SHA3-512(m ‖ SHA3-256(public key)).
    """
    message_a, message_b = unhex(case["msg_a"]), unhex(case["msg_b"])
    kem = MLKEM768(unhex(case["init_kem_seed_dz"]))
    symmetric = SymmetricState(Protocol.parse(case["protocol_name"]))
    for data in (unhex(case["prologue"]), message_a[:32], message_a[32:], b"", message_b[:32]):
        symmetric.mix_hash(data)
    symmetric.mix_key(X25519(unhex(case["init_ephemeral"])).dh(message_b[:32]))
    ciphertext = symmetric.decrypt_and_hash(message_b[32 : 32 + MLKEM768.CIPHERTEXT_LEN + 16])
    secret = kem.decapsulate(ciphertext)
    seed = unhex(case["encaps_coin_m"]) + hashlib.sha3_256(kem.public).digest()
    assert secret == hashlib.sha3_512(seed).digest()[:32]
    return secret, ciphertext


@pytest.mark.parametrize("index", range(10))
def test_public_vectors_of_the_hybrid_pattern(index: int) -> None:
    cases = json.loads(vectors("noise/xxhfs_mlkem768.json").read_text())["vectors"]
    assert len(cases) == 10
    case = cases[index]
    initiator = HandshakeState(
        case["protocol_name"],
        initiator=True,
        prologue=unhex(case["prologue"]),
        s=unhex(case["init_static"]),
        entropy=fixed(case["init_ephemeral"], case["init_kem_seed_dz"]),
    )
    responder = HandshakeState(
        case["protocol_name"],
        initiator=False,
        prologue=unhex(case["prologue"]),
        s=unhex(case["resp_static"]),
        entropy=fixed(case["resp_ephemeral"], encapsulation=recover_encapsulation(case)),
    )
    assert initiator.write_message().hex() == case["msg_a"]
    assert responder.read_message(unhex(case["msg_a"])) == b""
    assert responder.write_message().hex() == case["msg_b"]
    assert initiator.read_message(unhex(case["msg_b"])) == b""
    assert initiator.write_message().hex() == case["msg_c"]
    assert responder.read_message(unhex(case["msg_c"])) == b""
    for each in (initiator, responder):
        assert each.handshake_hash.hex() == case["handshake_hash"]
        assert [key.hex() for key in each.split_keys()] == [case["cs1_k"], case["cs2_k"]]
    assert initiator.remote_static == X25519(unhex(case["resp_static"])).public
    assert responder.remote_static == X25519(unhex(case["init_static"])).public


# Another implementation


def noiseprotocol(name: str, *, initiator: bool) -> Any:
    """Return a connection of the `noiseprotocol` package, ready to begin."""
    noise = pytest.importorskip("noise.connection", reason="noiseprotocol is not installed")
    theirs = noise.NoiseConnection.from_name(name.encode())
    theirs.set_as_initiator() if initiator else theirs.set_as_responder()
    theirs.set_prologue(b"prologue")
    static, remote = (b"i" * 32, b"r" * 32) if initiator else (b"r" * 32, b"i" * 32)
    theirs.set_keypair_from_private_bytes(noise.Keypair.STATIC, static)
    if "IK" in name and initiator:
        theirs.set_keypair_from_public_bytes(noise.Keypair.REMOTE_STATIC, X25519(remote).public)
    if "psk" in name:
        theirs.set_psks(psk=PSK)
    theirs.start_handshake()
    return theirs


@pytest.mark.parametrize("we_initiate", [True, False])
@pytest.mark.parametrize("algorithm", ["SHA256", "SHA512"])
@pytest.mark.parametrize("pattern", ["XX", "IK", "XXpsk3"])
def test_interoperates_with_noiseprotocol(pattern: str, algorithm: str, we_initiate: bool) -> None:
    name = f"Noise_{pattern}_25519_AESGCM_{algorithm}"
    theirs = noiseprotocol(name, initiator=not we_initiate)
    ours = HandshakeState(
        name,
        initiator=we_initiate,
        prologue=b"prologue",
        s=INITIATOR_STATIC if we_initiate else RESPONDER_STATIC,
        rs=RESPONDER_STATIC.public if pattern == "IK" and we_initiate else None,
        psk=PSK if "psk" in pattern else None,
    )
    while not ours.finished:
        if ours.my_turn:
            assert theirs.read_message(ours.write_message(b"from us")) == b"from us"
        else:
            assert ours.read_message(theirs.write_message(b"from them")) == b"from them"
    assert theirs.handshake_finished
    assert ours.handshake_hash == theirs.get_handshake_hash()
    to_responder, to_initiator = ours.split()
    sender, receiver = (to_responder, to_initiator) if we_initiate else (to_initiator, to_responder)
    for _ in range(3):
        assert theirs.decrypt(sender.encrypt_with_ad(b"", b"from us")) == b"from us"
        assert receiver.decrypt_with_ad(b"", theirs.encrypt(b"from them")) == b"from them"
    sender.rekey()
    theirs.rekey_inbound_cipher()
    assert theirs.decrypt(sender.encrypt_with_ad(b"", b"rekeyed")) == b"rekeyed"


# Forgeries


def at_step(step: int) -> tuple[HandshakeState, HandshakeState, bytes]:
    """Return the reader and the writer of message `step`, and that message, genuine."""
    initiator, responder = pair()
    writer, reader = initiator, responder
    for _ in range(step):
        reader.read_message(writer.write_message(b"payload"))
        writer, reader = reader, writer
    return reader, writer, writer.write_message(b"payload")


def assert_refused_without_harm(step: int, forge: Any) -> None:
    """Forge the message of `step`; only HandshakeError may come, and nothing may change."""
    reader, writer, genuine = at_step(step)
    forged = forge(genuine)
    if forged == genuine:
        return
    static_before = reader.remote_static
    for _ in range(2):
        with pytest.raises(HandshakeError):
            reader.read_message(forged)
    assert reader.remote_static == static_before
    assert reader.read_message(genuine) == b"payload"
    initiator, responder = (writer, reader) if step % 2 == 0 else (reader, writer)
    finish(initiator, responder)


@settings(max_examples=60)
@given(st.integers(0, 2), st.data())
def test_a_flipped_bit_is_refused_without_harm(step: int, data: st.DataObject) -> None:
    def flip(genuine: bytes) -> bytes:
        bit = data.draw(st.integers(0, len(genuine) * 8 - 1))
        forged = bytearray(genuine)
        forged[bit // 8] ^= 1 << bit % 8
        return bytes(forged)

    assert_refused_without_harm(step, flip)


@settings(max_examples=40)
@given(st.integers(0, 2), st.data())
def test_a_cut_or_extended_message_is_refused_without_harm(step: int, data: st.DataObject) -> None:
    def resize(genuine: bytes) -> bytes:
        cut = genuine[: data.draw(st.integers(0, len(genuine)))]
        return cut + data.draw(st.binary(max_size=80))

    assert_refused_without_harm(step, resize)


@settings(max_examples=40)
@given(st.integers(0, 2), st.binary(max_size=3000) | st.just(bytes(1300)))
def test_random_bytes_are_refused_without_harm(step: int, noise: bytes) -> None:
    assert_refused_without_harm(step, lambda genuine: noise)


@settings(max_examples=40)
@given(st.integers(0, 2), st.integers(0, 1300), st.binary(min_size=1, max_size=100))
def test_an_overwritten_region_is_refused_without_harm(step: int, at: int, noise: bytes) -> None:
    assert_refused_without_harm(
        step, lambda genuine: genuine[:at] + noise + genuine[at + len(noise) :]
    )


@pytest.mark.parametrize("step", range(3))
def test_every_truncation_is_refused_without_harm(step: int) -> None:
    reader, _, genuine = at_step(step)
    for length in range(len(genuine)):
        with pytest.raises(HandshakeError):
            reader.read_message(genuine[:length])
    with pytest.raises(HandshakeError, match="65536"):
        reader.read_message(genuine.ljust(MESSAGE_LIMIT + 1, b"\0"))
    assert reader.read_message(genuine) == b"payload"


@settings(max_examples=30)
@given(st.binary(max_size=3000))
def test_an_unauthenticated_first_message_raises_nothing_else(noise: bytes) -> None:
    """Without a psk, message one of XXhfs is plaintext: only its form can be refused."""
    _, responder = pair("Noise_XXhfs_25519+MLKEM768_AESGCM_SHA512")
    try:
        responder.read_message(noise)
    except HandshakeError:
        assert not responder.my_turn
    else:
        assert responder.my_turn


@pytest.mark.parametrize("low_order", [bytes(32), b"\1" + bytes(31)])
def test_a_low_order_ephemeral_is_refused(low_order: bytes) -> None:
    initiator, responder = pair("Noise_XX_25519_AESGCM_SHA512")
    _, deceived = pair("Noise_XX_25519_AESGCM_SHA512")
    deceived.read_message(low_order)
    with pytest.raises(AuthenticationError):
        deceived.write_message()
    responder.read_message(initiator.write_message())
    with pytest.raises(AuthenticationError):
        initiator.read_message(low_order + bytes(80))
    finish(initiator, responder)


def test_a_malformed_kem_key_is_refused_when_it_is_read() -> None:
    _, responder = pair("Noise_XXhfs_25519+MLKEM768_AESGCM_SHA512")
    with pytest.raises(AuthenticationError):
        responder.read_message(bytes([9]) + bytes(31) + b"\xff" * MLKEM768.PUBLIC_LEN)
    assert not responder.my_turn


# No downgrade


@pytest.mark.parametrize("suite", [SUITE, "Noise_XXhfs_25519+MLKEM768_AESGCM_SHA512"])
def test_the_hybrid_part_cannot_be_stripped_from_a_message(suite: str) -> None:
    initiator, responder = pair(suite)
    first = initiator.write_message()
    with pytest.raises(HandshakeError):
        responder.read_message(first[:32] + first[32 + MLKEM768.PUBLIC_LEN :])
    responder.read_message(first)
    second = responder.write_message()
    kem = MLKEM768.CIPHERTEXT_LEN + 16
    with pytest.raises(HandshakeError):
        initiator.read_message(second[:32] + second[32 + kem :])
    assert not initiator.finished


def test_the_kem_key_cannot_be_replaced_on_the_way() -> None:
    initiator, responder = pair("Noise_XXhfs_25519+MLKEM768_AESGCM_SHA512")
    first = initiator.write_message()
    responder.read_message(first[:32] + MLKEM768(bytes(64)).public)
    with pytest.raises(AuthenticationError):
        initiator.read_message(responder.write_message())


@pytest.mark.parametrize(
    "classical", ["Noise_XXpsk3_25519_AESGCM_SHA512", "Noise_XX_25519_AESGCM_SHA512"]
)
def test_no_link_is_made_with_a_peer_that_is_not_hybrid(classical: str) -> None:
    initiator, responder = pair(protocol_name=classical, psk=PSK if "psk" in classical else None)
    # A plain XX responder takes the KEM key for a payload; the transcripts differ all the same.
    with pytest.raises(HandshakeError):
        initiator.read_message(answer(initiator, responder))
    assert not initiator.finished
    classical_initiator, _ = pair(classical)
    _, hybrid_responder = pair()
    with pytest.raises(HandshakeError):
        hybrid_responder.read_message(classical_initiator.write_message())


def answer(initiator: HandshakeState, responder: HandshakeState) -> bytes:
    responder.read_message(initiator.write_message())
    return responder.write_message()


@pytest.mark.parametrize(
    ("difference", "step"),
    [
        ({"prologue": b"other"}, 0),
        ({"protocol_name": SUITE.replace("SHA512", "SHA256")}, 0),
        ({"psk": b"q" * 32}, 2),
    ],
)
def test_ends_that_differ_do_not_finish(difference: dict[str, Any], step: int) -> None:
    initiator, responder = pair(**difference)
    writer, reader = initiator, responder
    for _ in range(step):
        reader.read_message(writer.write_message())
        writer, reader = reader, writer
    with pytest.raises(AuthenticationError):
        reader.read_message(writer.write_message())
    assert not reader.finished


# The API


def test_a_handshake_agrees_on_keys_and_names_both_ends() -> None:
    initiator, responder = pair()
    assert initiator.my_turn
    assert not responder.my_turn
    finish(initiator, responder)
    assert initiator.remote_static == RESPONDER_STATIC.public
    assert responder.remote_static == INITIATOR_STATIC.public
    assert not initiator.my_turn
    assert not responder.my_turn


def test_no_two_handshakes_are_alike() -> None:
    assert len({pair()[0].write_message() for _ in range(4)}) == 4


def test_the_turns_are_kept() -> None:
    initiator, responder = pair()
    with pytest.raises(UsageError):
        responder.write_message()
    with pytest.raises(UsageError):
        initiator.read_message(b"")
    finish(initiator, responder)
    for each in (initiator, responder):
        with pytest.raises(UsageError):
            each.write_message()
        with pytest.raises(UsageError):
            each.read_message(b"")


def test_keys_come_out_once_and_only_at_the_end() -> None:
    initiator, responder = pair()
    for early in (initiator.split, initiator.split_keys, lambda: initiator.handshake_hash):
        with pytest.raises(UsageError, match="not finished"):
            early()
    finish(initiator, responder)
    for late in (initiator.split, initiator.split_keys):
        with pytest.raises(UsageError, match="taken already"):
            late()
    assert initiator.handshake_hash == responder.handshake_hash


def test_a_failed_write_changes_nothing() -> None:
    initiator, responder = pair()
    with pytest.raises(UsageError, match="65535"):
        initiator.write_message(bytes(MESSAGE_LIMIT))
    first = initiator.write_message(bytes(MESSAGE_LIMIT - 32 - 1200 - 16))
    assert len(first) == MESSAGE_LIMIT
    assert responder.read_message(memoryview(first)) == bytes(MESSAGE_LIMIT - 1248)
    finish(initiator, responder)


@pytest.mark.parametrize(
    ("name", "keys", "complaint"),
    [
        (SUITE, {"psk": PSK}, "needs an own static"),
        (SUITE, {"s": b"s" * 32}, "needs a pre-shared key"),
        (SUITE, {"s": b"s" * 32, "psk": b"p" * 31}, "got 31"),
        (SUITE, {"s": b"s" * 31, "psk": PSK}, "got 31"),
        (SUITE, {"s": b"s" * 32, "psk": PSK, "rs": b"r" * 32}, "does not use the peer's"),
        ("Noise_IK_25519_AESGCM_SHA512", {"s": b"s" * 32}, "needs the peer's"),
        ("Noise_IK_25519_AESGCM_SHA512", {"s": b"s" * 32, "rs": b""}, "got 0"),
        ("Noise_NN_25519_AESGCM_SHA512", {"s": b"s" * 32}, "does not use an own"),
        ("Noise_NN_25519_AESGCM_SHA512", {"psk": PSK}, "does not use a pre-shared"),
    ],
)
def test_keys_that_do_not_suit_the_pattern_are_refused(
    name: str, keys: dict[str, bytes], complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        HandshakeState(name, initiator=True, **keys)  # type: ignore[arg-type]


def test_handshakes_are_not_copied_pickled_or_shown() -> None:
    initiator, responder = pair()
    for holder in (initiator, CipherState(Protocol.parse(SUITE).cipher, PSK)):
        for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="cannot be copied or pickled"):
                duplicate(holder)
        assert repr(holder) == f"<{type(holder).__name__}>"
    finish(initiator, responder)
