"""The wire form of dtype and shape: round trips, and strictness against any bytes."""

from __future__ import annotations

from struct import pack

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from transport.tensor.spec import (
    DTYPE_NAMES,
    MAX_BYTES,
    MAX_DIMENSIONS,
    RAW_DTYPE,
    MalformedSpecError,
    TensorSpec,
    interned,
)
from transport.wire.codec import MalformedError

FLOAT32_CODE = 0x0B
RAW_CODE = 0x00

specs = st.one_of(
    st.builds(TensorSpec, st.just(RAW_DTYPE), st.tuples(st.integers(0, MAX_BYTES))),
    st.builds(
        TensorSpec,
        st.sampled_from(sorted(DTYPE_NAMES - {RAW_DTYPE})),
        st.lists(st.integers(0, 3), max_size=MAX_DIMENSIONS).map(tuple),
    ),
)


def encoded(code: int, *shape: int) -> bytes:
    return pack(f"<BB{len(shape)}Q", code, len(shape), *shape)


@given(specs, st.binary(max_size=5), st.binary(max_size=5))
def test_a_spec_survives_the_wire_at_any_offset(spec, before, after):
    wire = before + spec.encode() + after
    for view in (wire, bytearray(wire), memoryview(wire)):
        decoded, end = TensorSpec.decode(view, len(before))
        assert decoded == spec
        assert (decoded.nbytes, decoded.itemsize) == (spec.nbytes, spec.itemsize)
        assert end == len(wire) - len(after)


@given(st.binary(max_size=300), st.integers(0, 310))
@example(encoded(FLOAT32_CODE, 2**62, 2**62), 0)
@example(bytes([FLOAT32_CODE, 255]) + bytes(8 * 255), 0)
def test_arbitrary_bytes_decode_or_are_malformed(data, offset):
    try:
        spec, end = TensorSpec.decode(memoryview(data), offset)
    except MalformedSpecError:
        return
    assert spec.encode() == data[offset:end]
    assert spec.nbytes <= MAX_BYTES


@given(st.integers(0, 255), st.lists(st.integers(0, 2**64 - 1), max_size=40))
def test_arbitrary_codes_and_dimensions_decode_or_are_malformed(code, shape):
    data = encoded(code, *shape)
    try:
        spec, end = TensorSpec.decode(data, 0)
    except MalformedSpecError:
        return
    assert (list(spec.shape), end) == (shape, len(data))


def test_the_form_on_the_wire_does_not_change():
    assert TensorSpec("float32", (2, 3)).encode().hex() == ("0b0202000000000000000300000000000000")
    assert TensorSpec("bool", ()).encode().hex() == "0100"
    assert TensorSpec(RAW_DTYPE, (258,)).encode().hex() == "00010201000000000000"
    assert TensorSpec("bfloat16", ()).encode().hex() == "1000"
    assert TensorSpec("float8_e8m0fnu", ()).encode().hex() == "1700"


def test_sizes_are_in_bytes():
    assert TensorSpec("complex128", (2, 3)).nbytes == 96
    assert TensorSpec("float16", ()).nbytes == 2
    assert TensorSpec("int64", (4, 0)).nbytes == 0
    assert TensorSpec("float8_e5m2", (7,)).itemsize == 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "no spec", id="empty"),
        pytest.param(encoded(FLOAT32_CODE)[:1], "no spec", id="half-a-head"),
        pytest.param(encoded(FLOAT32_CODE, 5)[:-1], "behind the input", id="truncated"),
        pytest.param(encoded(0x7F), "unknown dtype code", id="unknown-code"),
        pytest.param(encoded(FLOAT32_CODE, *[1] * 33), "33 dimensions", id="too-many-dimensions"),
        pytest.param(encoded(FLOAT32_CODE, 2**61), "more than", id="overflow-by-one-element"),
        pytest.param(encoded(FLOAT32_CODE, 2**32, 2**32), "more than", id="overflow-by-product"),
        pytest.param(encoded(FLOAT32_CODE, 2**62, 2**62, 0), "more than", id="overflow-but-empty"),
        pytest.param(encoded(RAW_CODE), "one dimension", id="raw-without-length"),
        pytest.param(encoded(RAW_CODE, 2, 3), "one dimension", id="raw-with-two-dimensions"),
    ],
)
def test_decoding_is_strict(data, reason):
    with pytest.raises(MalformedSpecError, match=reason):
        TensorSpec.decode(memoryview(data), 0)


def test_the_largest_sizes_are_still_described():
    assert TensorSpec("uint8", (MAX_BYTES,)).nbytes == MAX_BYTES
    assert TensorSpec("float32", (1,) * MAX_DIMENSIONS).nbytes == 4
    with pytest.raises(MalformedSpecError):
        TensorSpec("uint8", (MAX_BYTES + 1,))


@pytest.mark.parametrize(
    ("dtype", "shape"), [("float33", ()), ("float32", (-1,)), ("bool", (1,) * 33), ("bytes", ())]
)
def test_an_impossible_spec_cannot_be_made(dtype, shape):
    with pytest.raises(MalformedSpecError):
        TensorSpec(dtype, shape)


def test_malformed_specs_are_counted_with_other_malformed_bytes():
    assert issubclass(MalformedSpecError, MalformedError)
    assert issubclass(MalformedSpecError, ValueError)


def test_equal_encodings_decode_to_one_object():
    wire = TensorSpec("int16", (5,)).encode()
    assert TensorSpec.decode(wire)[0] is TensorSpec.decode(wire)[0]
    assert TensorSpec.decode(wire)[0] is interned("int16", (5,))


def test_a_spec_is_a_value():
    assert TensorSpec("int8", (1, 2)) == TensorSpec("int8", (1, 2))
    assert len({TensorSpec("int8", (1,)), TensorSpec("int8", (1,)), TensorSpec("int8", (2,))}) == 2
    with pytest.raises(AttributeError):
        TensorSpec("int8", (1,)).dtype = "int16"
