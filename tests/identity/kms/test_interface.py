"""Contexts have one encoding, and evidence is bound to everything a request consists of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.kms import CONTEXT
from transport.errors import UsageError
from transport.identity.kms.interface import (
    CONTEXT_LIMIT,
    CONTEXT_PAIRS,
    Operation,
    decode_context,
    encode_context,
    request_binding,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
contexts = st.dictionaries(texts.filter(bool), texts, min_size=1, max_size=8)


@given(contexts)
def test_a_context_survives_its_encoding(context):
    assert decode_context(encode_context(context)) == context


@given(contexts, st.randoms())
def test_the_order_of_pairs_does_not_matter(context, random):
    pairs = list(context.items())
    random.shuffle(pairs)
    assert encode_context(dict(pairs)) == encode_context(context)


@given(contexts, contexts)
def test_two_contexts_have_two_encodings(one, other):
    assert (encode_context(one) == encode_context(other)) == (one == other)


@given(st.binary(max_size=100))
def test_no_bytes_raise_anything_else(encoded):
    try:
        context = decode_context(encoded)
    except ValueError:
        return
    assert encode_context(context) == encoded


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"\0\x01b\0\0\0\x01a\0\0",  # unsorted
        b"\0\x01a\0\0\0\x01a\0\0",  # twice the same
        b"\0\x01a",  # no value
        b"\0\0\0\x01a",  # no name
        b"\0\x01\xff\0\0",  # no UTF-8
        b"\0\x05a",
    ],
)
def test_another_encoding_is_refused(encoded):
    with pytest.raises(ValueError, match=r".+"):
        decode_context(encoded)


@pytest.mark.parametrize(
    "context",
    [
        {},
        {"": "x"},
        {"a": 1},
        {1: "a"},
        {"a": None},
        {"a": b"x"},
        {"a": "\ud800"},
        [("a", "b")],
        None,
        {"a": "x" * CONTEXT_LIMIT},
        {str(number): "" for number in range(CONTEXT_PAIRS + 1)},
    ],
)
def test_a_context_that_is_not_usable_is_the_callers_mistake(context):
    with pytest.raises(UsageError, match="encryption context"):
        encode_context(context)


def test_the_binding_covers_every_part():
    parts = (Operation.DECRYPT, b"subject", CONTEXT, b"challenge")
    others = (Operation.GENERATE, b"subject2", CONTEXT | {"model": "m2"}, b"challenge2")
    binding = request_binding(*parts)
    assert len(binding) == 64
    for place, other in enumerate(others):
        changed = [*parts]
        changed[place] = other
        assert request_binding(*changed) != binding


def test_parts_cannot_run_into_each_other():
    assert request_binding(Operation.DECRYPT, b"ab", CONTEXT, b"c") != request_binding(
        Operation.DECRYPT, b"a", CONTEXT, b"bc"
    )
