"""Attack 8: strip the hybrid part, or corrupt the offer until retry.

There is one suite and no negotiation, so there is nothing to fall back to. An
enemy who removes the ML-KEM key, replaces it, or spoils every offer in the hope
of a weaker second try gets no link at all; a peer that is itself classical gets
none either.
"""

from __future__ import annotations

import pytest

from support.pair import Pair
from transport.crypto.primitives import MLKEM768
from transport.link import State
from transport.link.drops import Drop
from transport.link.handshake import CIPHER_SUITE, Handshake, open_hello
from transport.wire.packet import HANDSHAKE_HEADER, Kind, classify

CLASSICAL = "Noise_XXpsk3_25519_AESGCM_SHA512"
NAME_IN_USE = "transport.link.handshake.CIPHER_SUITE"
EPHEMERAL = 32


def kind(packet: bytes) -> Kind:
    return classify(memoryview(packet))[0]


def offer_of(packet: bytes) -> int:
    """Where the Noise message begins in an INIT packet."""
    hello_size: int = HANDSHAKE_HEADER.unpack_from(packet)[2]
    return HANDSHAKE_HEADER.size + hello_size


def stripped(packet: bytes) -> bytes:
    """The INIT without its ML-KEM key, as a classical caller's would be."""
    start = offer_of(packet) + EPHEMERAL
    return packet[:start] + packet[start + MLKEM768.PUBLIC_LEN :]


def replaced(packet: bytes) -> bytes:
    """The INIT with an ML-KEM key whose secret the enemy holds."""
    start = offer_of(packet) + EPHEMERAL
    own = MLKEM768(bytes(MLKEM768.SEED_LEN)).public
    return packet[:start] + own + packet[start + MLKEM768.PUBLIC_LEN :]


def corrupted(packet: bytes) -> bytes:
    """The INIT with one bit of its ML-KEM key turned over."""
    copy = bytearray(packet)
    copy[offer_of(packet) + EPHEMERAL + 500] ^= 1
    return bytes(copy)


@pytest.mark.parametrize("attack", [stripped, replaced, corrupted])
def test_an_offer_that_was_touched_is_refused_however_often_it_is_repeated(
    attack: object,
) -> None:
    assert callable(attack)
    pair = Pair(paths=2, connect=False)
    pair.tapping = True
    pair.filter = lambda name, packet: attack(packet) if kind(packet) is Kind.INIT else packet
    pair.run(60.0)
    offers = {packet for name, _, packet in pair.tap if name == "client"}
    assert len(offers) > 10, "the caller goes on trying"
    assert {kind(packet) for packet in offers} == {Kind.INIT}
    assert {len(packet) for packet in offers} == {len(pair.tap[0][2])}, "and offers no less"
    assert pair.server.links == {}
    assert pair.server.dropped("bad_hello") == len(offers)
    assert pair.client.established == 0
    # Without the enemy the next try succeeds, with the one suite that there is.
    pair.filter = None
    pair.connect()
    for side in pair.sides:
        assert side.stats().cipher_suite == CIPHER_SUITE
        assert "hfs" in side.stats().cipher_suite
        assert "MLKEM768" in side.stats().cipher_suite


@pytest.mark.parametrize("cut", [0, EPHEMERAL, EPHEMERAL + 500, -1])
def test_an_answer_without_its_hybrid_part_is_no_answer(cut: int) -> None:
    pair = Pair(paths=1, connect=False)

    def shortened(name: str, packet: bytes) -> bytes:
        if kind(packet) is not Kind.RESPONSE:
            return packet
        if cut == EPHEMERAL:  # exactly the encapsulated secret and its tag
            start = HANDSHAKE_HEADER.size + EPHEMERAL
            return packet[:start] + packet[start + MLKEM768.CIPHERTEXT_LEN + 16 :]
        return packet[: HANDSHAKE_HEADER.size + cut] if cut >= 0 else packet[:cut]

    pair.filter = shortened
    pair.run(20.0)
    assert pair.client.link.state is State.HANDSHAKING
    assert pair.client.stats().drops["authentication"] > 2
    pair.filter = None
    pair.connect()


def classical_offer(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A first message of a genuine peer, with every key, that speaks the classical suite."""
    with monkeypatch.context() as patch:
        patch.setattr(NAME_IN_USE, CLASSICAL)
        return Handshake(pair.client.terms, peer="server", index=5).first_packet()


def test_a_classical_caller_is_not_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(connect=False)
    offer = memoryview(classical_offer(pair, monkeypatch))
    hello = open_hello(offer, pair.server.terms)
    answering = Handshake(pair.server.terms, peer="client", index=6, hello=hello)
    with pytest.raises(Drop, match="authentication"):
        answering.receive(offer)


def test_only_two_classical_sides_would_make_a_classical_link(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Control: the attack's packets are good; the one suite is what refuses them."""
    pair = Pair(connect=False)
    offer = memoryview(classical_offer(pair, monkeypatch))
    hello = open_hello(offer, pair.server.terms)
    monkeypatch.setattr(NAME_IN_USE, CLASSICAL)
    answering = Handshake(pair.server.terms, peer="client", index=6, hello=hello)
    (answer,) = answering.receive(offer)
    assert kind(answer) is Kind.RESPONSE


def test_no_switch_of_the_library_names_another_suite() -> None:
    pair = Pair()
    for side in pair.sides:
        assert side.stats().cipher_suite == "Noise_XXhfs+psk3_25519+MLKEM768_AESGCM_SHA512"
    assert not any("suite" in name or "cipher" in name for name in dir(pair.client.config))
