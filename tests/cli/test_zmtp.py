"""The ZMTP reader finds every frame, wherever the stream is cut into chunks."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from transport.cli.zmtp import COMMAND, GREETING_SIZE, LONG, MORE, FrameReader

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)

frame_lists = st.lists(
    st.tuples(st.sampled_from([0, MORE, COMMAND]), st.booleans(), st.binary(max_size=300)),
    max_size=12,
)


def encode(flags: int, long: bool, body: bytes) -> bytes:
    if long or len(body) > 255:
        return bytes([flags | LONG]) + len(body).to_bytes(8, "big") + body
    return bytes([flags, len(body)]) + body


@given(frame_lists, st.lists(st.integers(0, 4000), max_size=30))
def test_frames_are_found_whatever_the_chunks(frames, cuts):
    stream = GREETING + b"".join(encode(*frame) for frame in frames)
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    reader = FrameReader()
    found = []
    for start, end in itertools.pairwise(edges):
        found += reader.feed(stream[start:end])
    assert [stream[f.body : f.end] for f in found] == [body for _, _, body in frames]
    assert [f.command for f in found] == [flags == COMMAND for flags, _, _ in frames]
    assert [f.size for f in found] == [len(body) for _, _, body in frames]
    assert "".join("x" * (f.end - f.start) for f in found) == "x" * (len(stream) - GREETING_SIZE)
    assert reader.position == len(stream)
    assert not reader.opaque


@given(st.integers(0, 40))
def test_a_message_begins_where_no_frame_before_said_that_more_follow(taken):
    first, second = encode(MORE, False, b"one"), encode(0, False, b"two")
    stream = GREETING + first + second + encode(0, False, b"three")
    reader = FrameReader()
    taken = min(taken, len(stream) - GREETING_SIZE)
    found = reader.feed(stream[: GREETING_SIZE + taken])
    whole_pair = len(first) + len(second)
    expected = 0 if taken < whole_pair else whole_pair
    if taken == len(stream) - GREETING_SIZE:
        expected = taken
    assert reader.message_start == GREETING_SIZE + expected
    assert [f.whole for f in found] == [False, False, True][: len(found)]


@given(st.binary(min_size=GREETING_SIZE, max_size=300))
def test_foreign_bytes_are_counted_and_never_fail(data):
    reader = FrameReader()
    frames = reader.feed(b"GET / HTTP/1.1\r\n" + data)
    assert frames == []
    assert reader.opaque
    assert reader.position == len(data) + 16


@given(st.binary(max_size=600))
def test_any_bytes_after_the_greeting_are_read_without_failing(data):
    reader = FrameReader()
    for frame in reader.feed(GREETING + data):
        assert GREETING_SIZE <= frame.start < frame.body <= frame.end <= reader.position
    assert reader.position == GREETING_SIZE + len(data)


def test_reserved_flags_end_the_reading():
    reader = FrameReader()
    assert reader.feed(GREETING + encode(0, False, b"fine") + b"\xf0\x01x")[0].size == 4
    assert reader.opaque
    assert reader.feed(encode(0, False, b"ignored")) == []
