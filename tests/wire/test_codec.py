"""The bounded codec: what goes in comes out, and nothing else is accepted."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.wire import codec
from transport.wire.codec import MalformedError

LIMIT = 4096
values = st.integers(-(1 << 63), (1 << 64) - 1) | st.binary(max_size=100) | st.text(max_size=40)
maps = st.dictionaries(st.text(max_size=10), values, max_size=12)


@given(maps)
def test_what_was_packed_is_unpacked(fields: dict[str, codec.Value]) -> None:
    assert codec.unpack(codec.pack(fields), limit=LIMIT) == fields


@given(maps)
def test_a_view_is_as_good_as_bytes(fields: dict[str, codec.Value]) -> None:
    assert codec.unpack(memoryview(codec.pack(fields)), limit=LIMIT) == fields


@given(maps.filter(bool))
def test_an_encoding_above_the_limit_or_cut_short_is_malformed(
    fields: dict[str, codec.Value],
) -> None:
    encoded = codec.pack(fields)
    with pytest.raises(MalformedError):
        codec.unpack(encoded, limit=len(encoded) - 1)
    with pytest.raises(MalformedError):
        codec.unpack(encoded[:-1], limit=LIMIT)
    with pytest.raises(MalformedError):
        codec.unpack(encoded + b"\xc0", limit=LIMIT)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_give_a_flat_map_or_malformed(encoded: bytes) -> None:
    try:
        fields = codec.unpack(encoded, limit=LIMIT)
    except MalformedError:
        return
    for name, value in fields.items():
        assert isinstance(name, str)
        assert type(value) in (int, bytes, str)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        1.5,
        [],
        [1],
        {},
        {"b": 1},
        msgpack.ExtType(5, b""),
        msgpack.ExtType(5, b"abc"),
        msgpack.Timestamp(0, 0),
    ],
    ids=repr,
)
def test_only_integers_bytes_and_text_are_values(value: object) -> None:
    with pytest.raises(MalformedError):
        codec.unpack(msgpack.packb({"a": value}), limit=LIMIT)
    if not isinstance(value, dict):
        with pytest.raises(MalformedError):
            codec.unpack(msgpack.packb(value), limit=LIMIT)


def test_keys_are_text_and_few() -> None:
    with pytest.raises(MalformedError):
        codec.unpack(msgpack.packb({b"a": 1}), limit=LIMIT)
    with pytest.raises(MalformedError):
        codec.unpack(msgpack.packb({1: 1}), limit=LIMIT)
    assert len(codec.unpack(codec.pack({str(n): n for n in range(32)}), limit=LIMIT)) == 32
    with pytest.raises(MalformedError):
        codec.unpack(codec.pack({str(n): n for n in range(33)}), limit=LIMIT)


def test_text_that_is_not_utf8_is_malformed() -> None:
    with pytest.raises(MalformedError):
        codec.unpack(b"\x81\xa1a\xa2\xff\xfe", limit=LIMIT)


@pytest.mark.parametrize("value", [0, 11, -1, 1 << 63, "5", b"5"])
def test_an_integer_outside_its_range_is_malformed(value: codec.Value) -> None:
    with pytest.raises(MalformedError, match=r"1\.\.10"):
        codec.integer({"n": value}, "n", 1, 10)


@pytest.mark.parametrize("value", [b"", b"123", b"12345", "1234", 4])
def test_octets_have_one_length(value: codec.Value) -> None:
    with pytest.raises(MalformedError, match="4 bytes"):
        codec.octets({"o": value}, "o", 4)


@pytest.mark.parametrize("value", ["", "a" * 256, "\N{SNOWMAN}" * 100, b"a", 1])
def test_text_is_bounded_in_its_encoded_bytes(value: codec.Value) -> None:
    with pytest.raises(MalformedError, match=r"1\.\.255"):
        codec.text({"t": value}, "t", 255)


def test_fields_are_taken_and_missing_ones_are_malformed() -> None:
    fields: dict[str, codec.Value] = {"n": 10, "o": b"1234", "t": "\N{SNOWMAN}" * 85}
    assert codec.integer(fields, "n", 1, 10) == 10
    assert codec.octets(fields, "o", 4) == b"1234"
    assert codec.text(fields, "t", 255) == fields["t"]
    for take in (
        lambda: codec.integer({}, "n", 0, 1),
        lambda: codec.octets({}, "o", 4),
        lambda: codec.text({}, "t", 255),
    ):
        with pytest.raises(MalformedError):
            take()
