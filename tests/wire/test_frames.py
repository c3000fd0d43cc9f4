"""Frames: encoded and decoded alike, any number in a packet, and strict about the rest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.wire import frames
from transport.wire.codec import MalformedError

u16, u32, u64 = (st.integers(0, (1 << bits) - 1) for bits in (16, 32, 64))
descriptions = st.binary(max_size=frames.MAX_DESCRIPTION)


@st.composite
def acks(draw: st.DrawFn) -> tuple[bytes, frames.Frame]:
    bounds = draw(st.sets(u64, max_size=40))
    edges = sorted(bounds, reverse=True)
    ranges = [(low, high) for high, low in zip(edges[::2], edges[1::2], strict=False)]
    floor = draw(u64)
    return frames.encode_ack(floor, ranges), frames.Ack(floor, ranges)


@st.composite
def eagers(draw: st.DrawFn) -> tuple[bytes, frames.Frame]:
    message, context, tag = draw(u64), draw(u32), draw(u64)
    described, payload = draw(descriptions), draw(st.binary(max_size=200))
    head = frames.encode_eager_head(message, context, tag, described, len(payload))
    return head + payload, frames.Eager(message, context, tag, described, memoryview(payload))


@st.composite
def others(draw: st.DrawFn) -> tuple[bytes, frames.Frame]:
    number, value, index = draw(u64), draw(u64), draw(u16)
    challenge = draw(st.binary(min_size=16, max_size=16))
    body = draw(st.binary(max_size=300))
    described, context = draw(descriptions), draw(u32)
    choices: list[tuple[bytes, frames.Frame]] = [
        (
            frames.encode_announce(number, context, value, described, value),
            frames.Announce(number, context, value, described, value),
        ),
        (frames.encode_grant(number, value), frames.Grant(number, value)),
        (frames.encode_credit(value), frames.Credit(value)),
        (frames.encode_withdraw(number), frames.Withdraw(number)),
        (frames.encode_decline(number), frames.Decline(number)),
        (frames.encode_ping(), frames.Ping()),
        (frames.encode_join(index, challenge), frames.Join(index, challenge)),
        (frames.encode_joined(index, challenge), frames.Joined(index, challenge)),
        (frames.encode_handshake(body), frames.Handshake(body)),
        (frames.encode_close(number % 256), frames.Close(number % 256)),
    ]
    return draw(st.sampled_from(choices))


any_frame = acks() | eagers() | others()


def decoded(payload: bytes) -> list[frames.Frame]:
    return list(frames.decode(memoryview(payload)))


@given(st.lists(any_frame, max_size=8))
def test_frames_come_back_in_order(some: list[tuple[bytes, frames.Frame]]) -> None:
    found = decoded(b"".join(encoded for encoded, _ in some))
    assert found == [frame for _, frame in some]
    assert [type(frame) for frame in found] == [type(frame) for _, frame in some]


@given(any_frame, st.data())
def test_a_frame_cut_short_is_malformed(
    one: tuple[bytes, frames.Frame], data: st.DataObject
) -> None:
    encoded = one[0]
    cut = data.draw(st.integers(1, max(1, len(encoded) - 1)))
    if cut == len(encoded):
        return  # a PING is one byte
    with pytest.raises(MalformedError):
        decoded(encoded[:cut])


@given(st.binary(max_size=200))
def test_arbitrary_bytes_give_frames_or_malformed(payload: bytes) -> None:
    try:
        found = decoded(payload)
    except MalformedError:
        return
    assert len(found) <= len(payload)
    for frame in found:
        if isinstance(frame, frames.Ack):
            assert len(frame.ranges) <= frames.MAX_ACK_RANGES


@given(any_frame, st.data())
def test_a_changed_byte_gives_frames_or_malformed(
    one: tuple[bytes, frames.Frame], data: st.DataObject
) -> None:
    encoded = bytearray(one[0] * 2)
    encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded(bytes(encoded))
    except MalformedError:
        return


def test_frames_before_a_malformed_one_are_yielded() -> None:
    found = frames.decode(memoryview(frames.encode_ping() + b"\x00"))
    assert next(found) == frames.Ping()
    with pytest.raises(MalformedError, match="unknown frame type 0"):
        next(found)


@pytest.mark.parametrize("kind", [0, *range(15, 256)])
def test_an_unknown_type_is_malformed(kind: int) -> None:
    with pytest.raises(MalformedError, match=f"unknown frame type {kind}"):
        decoded(bytes([kind]) + bytes(100))


@pytest.mark.parametrize(
    "ranges",
    [
        [(5, 4)],
        [(1, 2), (5, 6)],
        [(5, 6), (5, 6)],
        [(5, 9), (3, 5)],
        [(5, 9), (6, 6)],
    ],
)
def test_ranges_that_do_not_descend_are_malformed(ranges: list[tuple[int, int]]) -> None:
    with pytest.raises(MalformedError, match="descending"):
        decoded(frames.encode_ack(0, ranges))


def test_an_acknowledgement_holds_so_many_ranges_and_no_more() -> None:
    ranges = [(number * 2, number * 2) for number in range(frames.MAX_ACK_RANGES, 0, -1)]
    encoded = frames.encode_ack(1, ranges)
    assert len(encoded) == frames.MAX_ACK
    assert decoded(encoded) == [frames.Ack(1, ranges)]
    with pytest.raises(MalformedError, match="129 ranges"):
        decoded(frames.encode_ack(1, [*ranges, (0, 0)]))


def test_a_description_is_bounded() -> None:
    long = bytes(frames.MAX_DESCRIPTION + 1)
    for encoded in (
        frames.encode_eager_head(0, 0, 0, long, 0),
        frames.encode_announce(0, 0, 0, long, 0),
    ):
        with pytest.raises(MalformedError):
            decoded(encoded)


def test_a_handshake_body_is_bounded() -> None:
    body = bytes(frames.MAX_HANDSHAKE_BODY)
    assert decoded(frames.encode_handshake(body)) == [frames.Handshake(body)]
    with pytest.raises(MalformedError):
        decoded(frames.encode_handshake(body + b"x"))


def test_the_payload_of_a_small_message_is_a_view_and_not_a_copy() -> None:
    packet = bytearray(frames.encode_eager_head(1, 2, 3, b"d", 4) + b"abcd")
    (frame,) = frames.decode(memoryview(packet))
    assert isinstance(frame, frames.Eager)
    packet[-4:] = b"ABCD"
    assert bytes(frame.payload) == b"ABCD"


def test_an_acknowledgement_is_known_to_be_all_that_is_left() -> None:
    for ranges in ([], [(3, 4)], [(9, 12), (3, 4)]):
        alone = b"." + frames.encode_ack(1, ranges)
        assert frames.ends_with_ack(alone, 1)
        assert not frames.ends_with_ack(alone + frames.encode_ping(), 1)
        for cut in range(2, len(alone)):
            assert not frames.ends_with_ack(alone[:cut], 1)
    assert not frames.ends_with_ack(frames.encode_ping(), 0)


@given(any_frame)
def test_a_lone_acknowledgement_is_what_the_parser_makes_of_it(
    one: tuple[bytes, frames.Frame],
) -> None:
    encoded, frame = one
    alone = frames.lone_ack(encoded)
    assert alone is None or list(map(list, alone.ranges)) == list(map(list, frame.ranges))
    one_range = isinstance(frame, frames.Ack) and len(frame.ranges) == 1
    assert (alone is not None) is one_range


@given(st.binary(min_size=27, max_size=27), st.integers(0, 2))
def test_what_is_no_acknowledgement_is_left_to_the_parser(tail: bytes, count: int) -> None:
    encoded = bytes((frames.ACK,)) + tail[:8] + bytes((count,)) + tail[9:25]
    alone = frames.lone_ack(encoded)
    if alone is not None:
        ((first, last),) = alone.ranges
        assert decoded(encoded) == [frames.Ack(alone.floor, [(first, last)])]
    assert frames.lone_ack(encoded + b"\0") is frames.lone_ack(encoded[:-1]) is None
