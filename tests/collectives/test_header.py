"""Headers and notices: what ranks say beside the data, and what is made of hostile ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.markdown import table
from transport.collectives.header import (
    MAX_HEADER,
    MAX_NOTICE,
    Call,
    Cause,
    Header,
    Headers,
    Notice,
)
from transport.collectives.reduction import Op
from transport.errors import (
    ClosedError,
    LimitError,
    PeerError,
    PeerLostError,
    TransportTimeoutError,
    UsageError,
)
from transport.tensor.spec import TensorSpec

SPECIFICATION = Path(__file__).parents[2] / "docs" / "spec.md"
SPEC = TensorSpec("float32", (3, 4))
HEADER = Header(Call.ALL_REDUCE, SPEC, Op.SUM, 0, 77, 4)

headers = st.builds(
    Header,
    st.sampled_from(Call),
    st.builds(
        TensorSpec,
        st.sampled_from(["float32", "int8", "bool"]),
        st.lists(st.integers(0, 3), max_size=32).map(tuple),
    ),
    st.none() | st.sampled_from(Op),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
)


@given(headers)
def test_a_header_says_what_it_was_given(header):
    encoded = header.encode()
    assert len(encoded) % 16 == 0
    assert len(encoded) <= MAX_HEADER
    assert Header.decode(encoded) == header


@given(st.binary(max_size=64))
def test_no_bytes_make_decoding_fail(data):
    header = Header.decode(data)
    assert header is None or isinstance(header, Header)
    assert isinstance(HEADER.difference(data), str)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"call": Call.BARRIER}, "calls barrier, this rank all_reduce"),
        ({"op": Op.MAX}, "with op max, this rank sum"),
        ({"spec": TensorSpec("float32", (4, 3))}, "float32[4, 3], this rank float32[3, 4]"),
        ({"spec": TensorSpec("int32", (3, 4))}, "int32[3, 4], this rank float32[3, 4]"),
        ({"root": 2}, "root 2, this rank 0"),
        ({"size": 5}, "a group of 5, this rank one of 4"),
        ({"tuning": 1}, "another Tuning"),
    ],
)
def test_a_difference_is_put_into_words(change, words):
    theirs = HEADER._replace(**change).encode()
    assert words in HEADER.difference(memoryview(theirs))


def test_an_operation_is_put_into_words():
    assert HEADER.describe() == "all_reduce of float32[3, 4] (sum)"
    assert Header(Call.BARRIER, SPEC).describe() == "barrier"


@given(
    st.sampled_from(Cause),
    st.none() | st.integers(0, 9),
    st.text(st.characters(exclude_categories=["C", "Z"]), max_size=200),
)
def test_a_notice_says_what_it_was_given(cause, rank, text):
    assert Notice.decode(Notice(cause, rank, text).encode(), 10) == (cause, rank, text)


@given(st.binary(max_size=80), st.integers(1, 9))
def test_a_notice_that_makes_no_sense_is_a_failure_without_a_reason(data, size):
    notice = Notice.decode(data, size)
    assert notice.rank is None or notice.rank < size
    assert notice.text.isprintable()


def test_a_long_notice_is_cut():
    encoded = Notice(Cause.OTHER, None, "€" * 2000).encode()
    assert len(encoded) <= MAX_NOTICE
    assert Notice.decode(encoded, 4).text.startswith("€€€")


@pytest.mark.parametrize(
    ("error", "cause", "kind"),
    [
        (PeerLostError("x"), Cause.LOST, PeerLostError),
        (UsageError("x"), Cause.MISMATCH, UsageError),
        (TransportTimeoutError("x"), Cause.LATE, TransportTimeoutError),
        (ClosedError("x"), Cause.CLOSED, PeerLostError),
        (LimitError("x"), Cause.OTHER, PeerError),
    ],
)
def test_members_raise_what_stands_for_the_cause(error, cause, kind):
    assert Cause.of(error) is cause
    raised = cause.error("said so")
    assert type(raised) is kind
    assert str(raised) == "said so"


@pytest.mark.parametrize(
    ("columns", "members"), [(("call", "operation"), Call), (("cause", "meaning"), Cause)]
)
def test_the_codes_are_those_of_the_specification(columns, members):
    rows = table(SPECIFICATION.read_text(encoding="utf-8"), *columns)
    assert [tuple(row) for row in rows] == [(str(m.value), m.name.lower()) for m in members]


def test_the_reductions_are_those_of_the_specification():
    rows = table(SPECIFICATION.read_text(encoding="utf-8"), "op", "reduction")
    expected = [("0", "none"), *((str(op.value), op.name.lower()) for op in Op)]
    assert [tuple(row) for row in rows] == expected


def test_an_opening_is_the_description_of_raw_bytes_and_the_header():
    headers = Headers(HEADER)
    assert headers.opening(1, 48) == TensorSpec("bytes", (48,)).encode() + headers.note(1)
    assert headers.note(1) == HEADER.encode()
    other = HEADER._replace(root=3)
    by_peer = Headers(HEADER, lambda peer, inward: other if inward else HEADER)
    assert by_peer.expected(2) == other
    assert by_peer.note(2) == HEADER.encode()
    assert by_peer.opening(2, 0).endswith(other.encode())
