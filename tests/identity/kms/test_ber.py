"""The reader of BER: what it accepts, what it refuses, and that nothing makes it run away."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.identity.kms import ber
from transport.identity.kms.ber import BerError


def test_a_definite_sequence():
    element = ber.read(bytes.fromhex("3006 020102 040101"))
    assert [child.content for child in element.sequence()] == [b"\x02", b"\x01"]


def test_an_indefinite_sequence_ends_at_its_end_of_contents():
    element = ber.read(bytes.fromhex("3080 020102 3080 0000 0000"))
    number, inner = element.sequence()
    assert number.primitive(ber.INTEGER) == b"\x02"
    assert inner.sequence() == ()


def test_an_octet_string_in_chunks_of_chunks():
    element = ber.read(bytes.fromhex("2480 0401aa 2404 0402bbcc 0000"))
    assert element.octets() == bytes.fromhex("aabbcc")


def test_lengths_need_not_be_the_shortest():
    assert ber.read(bytes.fromhex("0484 00000001 aa")).octets() == b"\xaa"


@pytest.mark.parametrize(
    ("encoded", "what"),
    [
        ("", "nothing"),
        ("30", "no length"),
        ("3005020102", "longer than the input"),
        ("3080020102", "no end of contents"),
        ("308002010200", "half of the end of contents"),
        ("0480aa0000", "a primitive of indefinite length"),
        ("3003020202", "a child that reaches beyond its parent"),
        ("020102aa", "bytes behind it"),
        ("1f810102aa", "a tag of several bytes"),
        ("0000", "an end of contents alone"),
        ("04850000000001aa", "a length of five bytes"),
        ("04ffaa", "a reserved length"),
    ],
)
def test_what_is_malformed_is_refused(encoded, what):
    with pytest.raises(BerError):
        ber.read(bytes.fromhex(encoded))


def test_depth_is_bounded():
    deep = b"\x30\x80" * (ber.DEPTH_LIMIT + 2)
    with pytest.raises(BerError, match="deep"):
        ber.read(deep + b"\0\0" * (ber.DEPTH_LIMIT + 2))


def test_the_number_of_elements_is_bounded():
    many = b"\x05\x00" * (ber.ELEMENTS_LIMIT + 1)
    with pytest.raises(BerError, match="many"):
        ber.read(ber.write_indefinite(ber.SEQUENCE, [many]))


def test_the_input_is_bounded():
    with pytest.raises(BerError, match="long"):
        ber.read(ber.write(ber.OCTET_STRING, bytes(ber.INPUT_LIMIT)))


@pytest.mark.parametrize(
    ("dotted", "encoded"),
    [
        ("1.2.840.113549.1.7.3", "06092a864886f70d010703"),
        ("2.16.840.1.101.3.4.1.42", "060960864801650304012a"),
    ],
)
def test_object_identifiers(dotted, encoded):
    assert ber.object_identifier(dotted) == bytes.fromhex(encoded)


@given(st.binary(max_size=600), st.sampled_from([1, 127, 128, 255, 256, 4096]))
def test_what_is_written_reads_back(content, chunk):
    pieces = [content[at : at + chunk] for at in range(0, len(content), chunk)]
    parts = [ber.write(ber.OCTET_STRING, piece) for piece in pieces]
    for write in (ber.write_constructed, ber.write_indefinite):
        assert ber.read(write(ber.CONTEXT, parts)).octets(ber.CONTEXT) == content


@given(st.binary(max_size=300))
def test_no_input_raises_anything_else(encoded):
    with contextlib.suppress(BerError):
        ber.read(encoded)


@given(st.lists(st.sampled_from([b"\x30\x80", b"\x24\x80", b"\x04\x01a", b"\0\0", b"\x30\x03"])))
def test_no_structure_raises_anything_else(parts):
    with contextlib.suppress(BerError):
        ber.read(b"".join(parts))
