"""Sealer and opener: nonces, epochs, limits, and what a forgery can change (nothing)."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from transport.crypto.primitives import hkdf_sha512_expand
from transport.crypto.seal import KeyLimits, Opener, Sealer, direction_secret, link_root
from transport.errors import AuthenticationError, ClosedError, KeyExhaustedError, UsageError
from transport.wire.packet import BULK_HEADER, BULK_OVERHEAD, FRAMES_HEADER, FRAMES_OVERHEAD

SECRET = bytes(range(64))
NEXT_SECRET = bytes(range(64, 128))


def pair(limits: KeyLimits | None = None) -> tuple[Sealer, Opener]:
    return Sealer(SECRET, receiver=5, limits=limits or KeyLimits()), Opener(SECRET)


def sealed(sealer: Sealer, frames: bytes = b"frames") -> memoryview:
    return memoryview(bytes(sealer.seal_frames(frames)[1]))


def sealed_piece(sealer: Sealer, piece: bytes, message: int = 1, offset: int = 2) -> memoryview:
    slot = memoryview(bytearray(len(piece) + 200))
    number, size = sealer.seal_bulk_into(slot, message, offset, piece)
    assert number == sealer.next_number - 1
    assert bytes(slot[size:]) == bytes(200 - BULK_OVERHEAD), "not a byte beyond the packet"
    return slot[:size]


def number_of(packet: memoryview) -> int:
    number: int = FRAMES_HEADER.unpack_from(packet)[4]
    return number


# --- one packet ------------------------------------------------------------------------


@given(st.binary(max_size=500))
def test_frames_are_sealed_and_opened(frames: bytes) -> None:
    sealer, opener = pair()
    packet = sealed(sealer, frames)
    assert len(packet) == len(frames) + FRAMES_OVERHEAD
    assert opener.verdict(number_of(packet)) is None
    assert opener.open_frames(packet) == frames
    assert opener.verdict(number_of(packet)) == "replay"


@given(st.binary(min_size=1, max_size=500), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_a_piece_is_opened_into_its_place(piece: bytes, message: int, offset: int) -> None:
    sealer, opener = pair()
    packet = sealed_piece(sealer, piece, message, offset)
    assert BULK_HEADER.unpack_from(packet)[5:] == (message, offset)
    destination = memoryview(bytearray(len(piece)))
    opener.open_bulk_into(packet, destination)
    assert destination == piece


def test_a_packet_is_what_the_specification_says() -> None:
    sealer, _ = pair()
    sealed(sealer)
    packet = sealed(sealer)
    material = hkdf_sha512_expand(SECRET, b"sealfabric 1 key and iv", 44)
    iv = int.from_bytes(material[32:], "big")
    nonce = (iv ^ 1).to_bytes(12, "big")
    header = bytes(packet[:16])
    assert header == FRAMES_HEADER.pack(0x15, 0, 0, 5, 1)
    assert AESGCM(material[:32]).decrypt(nonce, bytes(packet[16:]), header) == b"frames"


@pytest.mark.parametrize("bulk", [False, True])
def test_any_bit_flipped_fails_and_changes_nothing(bulk: bool) -> None:
    sealer, opener = pair()
    packet = sealed_piece(sealer, b"piece") if bulk else sealed(sealer)
    destination = memoryview(bytearray(5))

    def opened(candidate: memoryview) -> None:
        if bulk:
            opener.open_bulk_into(candidate, destination)
        else:
            opener.open_frames(candidate)

    bits = 8 * len(packet)
    for bit in range(bits):
        forged = bytearray(packet)
        forged[bit >> 3] ^= 1 << (bit & 7)
        with pytest.raises(AuthenticationError):
            opened(memoryview(forged))
    assert opener.failures == bits
    assert (opener.generation, opener.epoch) == (0, 0)
    assert all(opener.verdict(number) is None for number in range(20)), "no number was marked"
    opened(packet)


def test_both_directions_and_both_roots_have_secrets_of_their_own() -> None:
    split = bytes(32), bytes([1]) * 32
    hashes = bytes(64), bytes([2]) * 64
    root = link_root(split, bytes(64), hashes)
    assert len(root) == 64
    assert root != link_root(split, bytes([1]) * 64, hashes)
    assert root != link_root(split, bytes(64), hashes[::-1])
    assert root != link_root(split[::-1], bytes(64), hashes)
    there = direction_secret(root, from_initiator=True)
    back = direction_secret(root, from_initiator=False)
    assert there != back
    assert len(there) == len(back) == 64
    packet = sealed(Sealer(there, receiver=1, limits=KeyLimits()))
    with pytest.raises(AuthenticationError):
        Opener(back).open_frames(packet)


# --- numbers -----------------------------------------------------------------------------


def test_numbers_rise_by_one_over_packets_epochs_and_generations() -> None:
    sealer, opener = pair()
    numbers = []
    for step in range(12):
        numbers.append(number_of(sealed(sealer)))
        numbers.append(number_of(sealed_piece(sealer, b"x")))
        if step % 3 == 1:
            sealer.advance()
            assert sealer.first_number == sealer.next_number
        if step % 5 == 4:
            sealer.renew(bytes([step]) * 64)
    assert numbers == list(range(24))
    assert opener.failures == 0


def test_a_number_is_spent_even_if_sealing_fails() -> None:
    sealer, opener = pair()
    too_small = memoryview(bytearray(BULK_OVERHEAD))
    before = sealer.next_number
    with pytest.raises(ValueError, match=r"."):
        sealer.seal_bulk_into(too_small, 0, 0, b"does not fit")
    assert sealer.next_number == before + 1
    packet = sealed(sealer)
    assert number_of(packet) == before + 1
    assert bytes(opener.open_frames(packet)) == b"frames"


# --- epochs and generations ----------------------------------------------------------------


@settings(max_examples=60)
@given(st.lists(st.sampled_from("sssar"), max_size=60), st.randoms(use_true_random=False))
def test_an_opener_follows_its_sealer_through_epochs_and_generations(
    steps: list[str], rng: object
) -> None:
    sealer, opener = pair()
    for serial, step in enumerate(steps):
        if step == "s":
            packet = sealed(sealer, bytes([serial]))
            assert opener.open_frames(packet) == bytes([serial])
            assert (opener.generation, opener.epoch) == (sealer.generation, sealer.epoch)
            continue
        # As links do: what was sealed under the old key has arrived before the next change.
        opener.open_frames(sealed(sealer))
        if step == "a":
            sealer.advance()
        else:
            opener.expect(bytes([serial]) * 64)
            sealer.renew(bytes([serial]) * 64)


def test_a_late_packet_of_the_epoch_before_opens_until_it_is_forgotten() -> None:
    sealer, opener = pair()
    late = [sealed(sealer) for _ in range(3)]
    sealer.advance()
    opener.open_frames(sealed(sealer))
    opener.forget_before(sealer.first_number)
    assert bytes(opener.open_frames(late[0])) == b"frames", "its sender may still wait for this one"
    opener.open_frames(sealed(sealer))
    opener.forget_before(sealer.next_number)
    with pytest.raises(AuthenticationError, match="epoch"):
        opener.open_frames(late[1])


def test_the_epoch_before_the_last_is_gone_at_once() -> None:
    sealer, opener = pair()
    late = sealed(sealer)
    for _ in range(2):
        sealer.advance()
        opener.open_frames(sealed(sealer))
    with pytest.raises(AuthenticationError):
        opener.open_frames(late)


def test_a_sealer_may_not_skip_an_epoch() -> None:
    sealer, opener = pair()
    sealer.advance()
    sealer.advance()
    with pytest.raises(AuthenticationError):
        opener.open_frames(sealed(sealer))
    assert opener.epoch == 0


def test_a_forged_epoch_or_generation_moves_nothing() -> None:
    sealer, opener = pair()
    opener.expect(NEXT_SECRET)
    for generation, epoch in ((0, 1), (1, 0), (1, 1), (0, 2), (255, 0)):
        forged = bytearray(sealed(sealer))
        forged[1], forged[2:4] = generation, epoch.to_bytes(2, "little")
        with pytest.raises(AuthenticationError):
            opener.open_frames(memoryview(forged))
    assert (opener.generation, opener.epoch) == (0, 0)
    opener.open_frames(sealed(sealer))


def test_an_agreed_generation_stays_ready_while_epochs_pass() -> None:
    sealer, opener = pair()
    opener.expect(NEXT_SECRET)
    for _ in range(4):
        sealer.advance()
        opener.open_frames(sealed(sealer))
        opener.forget_before(sealer.next_number)
    late = sealed(sealer)
    sealer.renew(NEXT_SECRET)
    assert bytes(opener.open_frames(sealed(sealer))) == b"frames"
    assert (opener.generation, opener.epoch) == (1, 0)
    assert bytes(opener.open_frames(late)) == b"frames", "the generation before, for late packets"
    assert (opener.generation, opener.epoch) == (1, 0)


def test_a_generation_that_was_not_agreed_does_not_open() -> None:
    sealer, opener = pair()
    sealer.renew(NEXT_SECRET)
    with pytest.raises(AuthenticationError):
        opener.open_frames(sealed(sealer))


def test_epochs_end_before_their_number_repeats() -> None:
    sealer, _ = pair()
    for _ in range(0xFFFF):
        sealer.advance()
    with pytest.raises(KeyExhaustedError, match="new handshake"):
        sealer.advance()
    sealer.renew(NEXT_SECRET)
    assert sealer.epoch == 0


# --- limits ----------------------------------------------------------------------------------


def test_the_soft_limit_asks_and_the_hard_limit_refuses() -> None:
    sealer, _ = pair(KeyLimits(soft_packets=3, hard_packets=5))
    wants = []
    for _ in range(5):
        wants.append(sealer.wants_rekey)
        sealed(sealer)
    assert wants == [False, False, False, True, True]
    for _ in range(3):
        with pytest.raises(KeyExhaustedError, match="5 packets"):
            sealed(sealer)
        with pytest.raises(KeyExhaustedError):
            sealed_piece(sealer, b"x")
    assert sealer.next_number == 5, "a refusal spends nothing"
    sealer.advance()
    assert not sealer.wants_rekey
    sealed(sealer)


@pytest.mark.parametrize("size", [1, 16, 17, 1000])
def test_blocks_are_counted_so_that_small_packets_cannot_step_round(size: int) -> None:
    # Header, tag and payload all pass through the cipher, in blocks of 16 bytes.
    per_frames = -(-size // 16) + 1 + 1
    per_piece = -(-size // 16) + 2 + 1
    hard = 10 * per_frames + 5 * per_piece
    sealer, _ = pair(KeyLimits(soft_blocks=per_frames, hard_blocks=hard))
    for _ in range(10):
        sealed(sealer, bytes(size))
        assert sealer.wants_rekey
    for _ in range(5):
        sealed_piece(sealer, bytes(size))
    with pytest.raises(KeyExhaustedError, match=f"{hard} blocks"):
        sealed(sealer, b"")


def test_the_limits_follow_the_advantage_asked_for() -> None:
    limits = [KeyLimits.for_advantage(exponent) for exponent in range(50, 76)]
    blocks = [each.hard_blocks for each in limits]
    assert blocks == sorted(blocks, reverse=True)
    for exponent, each in zip(range(50, 76), limits, strict=True):
        # Within a factor of two of q^2 / 2^129 = 2^-exponent.
        assert 2 ** (128 - exponent) <= each.hard_blocks**2 <= 2 ** (130 - exponent)
        assert each.soft_blocks * 8 == each.hard_blocks
        assert each.soft_packets < each.hard_packets
    assert KeyLimits.for_advantage(60).hard_blocks == KeyLimits().hard_blocks == 2**35


# --- one owner ---------------------------------------------------------------------------------


def test_a_forked_child_cannot_seal() -> None:
    sealer, opener = pair()
    sealed(sealer)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        verdict = b"sealed"
        try:
            sealed(sealer)
        except UsageError as error:
            verdict = str(error).encode()
        finally:
            os.write(writer, verdict)
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        assert b"parent process" in pipe.read()
    os.waitpid(child, 0)
    assert bytes(opener.open_frames(sealed(sealer))) == b"frames", "the parent goes on"


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_neither_can_be_copied_or_serialised(duplicate: Callable[[object], object]) -> None:
    for holder in pair():
        with pytest.raises(TypeError, match="holds a key"):
            duplicate(holder)


def test_neither_shows_its_key() -> None:
    for holder in pair():
        shown = repr(holder) + str(holder)
        for length in (4, 8):
            assert SECRET[:length].hex() not in shown
        assert not hasattr(holder, "__dict__")


def test_a_dropped_sealer_seals_nothing_and_takes_no_other_key() -> None:
    """Its secret is wiped to zeros: an epoch grown from them would be anybody's."""
    sealer, _ = pair(KeyLimits(soft_packets=1))
    sealed(sealer)
    sealer.drop()
    sealer.drop()
    for use in (lambda: sealed(sealer), sealer.advance, lambda: sealer.renew(NEXT_SECRET)):
        with pytest.raises(ClosedError):
            use()


def test_a_dropped_opener_opens_nothing() -> None:
    sealer, opener = pair()
    opener.drop()
    with pytest.raises(AuthenticationError):
        opener.open_frames(sealed(sealer))
