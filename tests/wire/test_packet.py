"""Packet headers: fixed layouts, and a classification that nothing can confuse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.wire.codec import MalformedError
from transport.wire.packet import (
    BULK_HEADER,
    BULK_OVERHEAD,
    FIRST_BULK,
    FIRST_FRAMES,
    FRAMES_HEADER,
    FRAMES_OVERHEAD,
    HANDSHAKE_HEADER,
    PROTOCOL_VERSION,
    HandshakeHeader,
    Kind,
    VersionError,
    classify,
    first_byte,
    pack_handshake,
    parse_handshake,
)

HANDSHAKES = (Kind.INIT, Kind.RESPONSE, Kind.FINISH, Kind.EVIDENCE)
u16, u32, u64 = (st.integers(0, (1 << bits) - 1) for bits in (16, 32, 64))


def test_headers_have_the_sizes_of_the_specification() -> None:
    assert HANDSHAKE_HEADER.size == 8
    assert FRAMES_HEADER.size == 16
    assert BULK_HEADER.size == 32
    assert (FRAMES_OVERHEAD, BULK_OVERHEAD) == (32, 48)


def test_layouts_are_little_endian_and_stay_as_they_are() -> None:
    assert pack_handshake(Kind.INIT, 0x01020304, 0x0506) == bytes.fromhex("11000605 04030201")
    frames = FRAMES_HEADER.pack(FIRST_FRAMES, 2, 3, 4, 5)
    assert frames == bytes.fromhex("15 02 0300 04000000 0500000000000000")
    bulk = BULK_HEADER.pack(FIRST_BULK, 2, 3, 4, 5, 6, 7)
    assert bulk == bytes.fromhex("16 02 0300 04000000 0500000000000000") + bytes.fromhex(
        "0600000000000000 0700000000000000"
    )


@given(st.sampled_from(HANDSHAKES), u32, u16, st.binary(max_size=20))
def test_a_handshake_header_comes_back(
    kind: Kind, receiver: int, counter: int, rest: bytes
) -> None:
    packet = memoryview(pack_handshake(kind, receiver, counter) + rest)
    assert parse_handshake(packet) == HandshakeHeader(kind, counter, receiver)
    assert classify(packet) == (kind, receiver)


@given(u32, u64, st.binary(min_size=16, max_size=40))
def test_sealed_packets_are_classified_with_their_receiver(
    receiver: int, number: int, sealed: bytes
) -> None:
    frames = FRAMES_HEADER.pack(FIRST_FRAMES, 1, 2, receiver, number) + sealed
    assert classify(memoryview(frames)) == (Kind.FRAMES, receiver)
    bulk = BULK_HEADER.pack(FIRST_BULK, 1, 2, receiver, number, 0, 0) + sealed + b"x"
    assert classify(memoryview(bulk)) == (Kind.BULK, receiver)


@given(st.binary(max_size=80))
def test_arbitrary_bytes_are_classified_or_malformed(packet: bytes) -> None:
    view = memoryview(packet)
    kind: Kind | None = None
    try:
        found, receiver = classify(view)
    except MalformedError:
        pass
    else:
        kind = found
        assert 0 <= receiver < 1 << 32
        assert packet[0] == first_byte(found)
    try:
        header = parse_handshake(view)
    except MalformedError:
        return
    assert header.kind in HANDSHAKES
    assert kind is header.kind


@pytest.mark.parametrize("first", range(256))
def test_each_first_byte_has_one_meaning(first: int) -> None:
    packet = memoryview(bytes([first]) + bytes(100))
    version, kind = first >> 4, first & 0x0F
    if version != PROTOCOL_VERSION:
        with pytest.raises(VersionError, match=f"version {version}, expected 1"):
            classify(packet)
    elif 1 <= kind <= 7:
        assert classify(packet)[0] == kind
    else:
        with pytest.raises(MalformedError, match=f"kind {kind}"):
            classify(packet)
    if first not in {first_byte(kind) for kind in HANDSHAKES}:
        with pytest.raises(MalformedError):
            parse_handshake(packet)


@pytest.mark.parametrize("size", range(8))
def test_shorter_than_a_header_is_malformed(size: int) -> None:
    for parse in (classify, parse_handshake):
        with pytest.raises(MalformedError, match="shorter"):
            parse(memoryview(pack_handshake(Kind.INIT, 1))[:size])


def test_a_sealed_packet_has_at_least_a_tag_and_a_piece_at_least_a_byte() -> None:
    for first, least in ((FIRST_FRAMES, FRAMES_OVERHEAD), (FIRST_BULK, BULK_OVERHEAD + 1)):
        classify(memoryview(bytes([first]) + bytes(least - 1)))
        with pytest.raises(MalformedError, match="sealed"):
            classify(memoryview(bytes([first]) + bytes(least - 2)))


def test_the_reserved_byte_of_a_handshake_header_is_zero() -> None:
    packet = bytearray(pack_handshake(Kind.FINISH, 5))
    packet[1] = 1
    with pytest.raises(MalformedError):
        parse_handshake(memoryview(packet))
