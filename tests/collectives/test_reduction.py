"""Operations by name, and numpy's arithmetic on flat bytes."""

from __future__ import annotations

import warnings

import ml_dtypes
import numpy as np
import pytest

from transport.collectives import NumpyKernel, PremulSum
from transport.collectives.reduction import Op, Reduction, reduction
from transport.errors import UsageError

KERNEL = NumpyKernel()


def flat(array):
    return array.view(np.uint8).data


def combined(op, left, right):
    out = np.empty_like(left)
    KERNEL.combine(reduction(op), left.dtype.name, flat(left), flat(right), flat(out))
    return out


def test_names_and_factors():
    assert reduction("sum") == Reduction(Op.SUM)
    assert reduction(PremulSum(factor=0.5)) == Reduction(Op.PREMUL_SUM, 0.5)
    assert reduction(Reduction(Op.MAX)) == Reduction(Op.MAX)
    assert str(reduction("bxor")) == "bxor"
    for wrong in ("SUM", "premul_sum", None, 3):
        with pytest.raises(UsageError, match="op must be one of sum, avg"):
            reduction(wrong)


@pytest.mark.parametrize(
    ("op", "ufunc"),
    [
        ("sum", np.add),
        ("avg", np.add),
        ("product", np.multiply),
        ("min", np.minimum),
        ("max", np.maximum),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.int16, ml_dtypes.bfloat16, np.complex64])
def test_arithmetic_is_numpys(op, ufunc, dtype):
    left, right = np.array([1, 5, 3]).astype(dtype), np.array([2, 2, 2]).astype(dtype)
    assert np.array_equal(combined(op, left, right), ufunc(left, right))


def test_the_operands_keep_their_places():
    """Which of two NaNs or zeros results depends on the order, so the order is kept."""
    zeros = np.array([0.0, -0.0])
    assert combined("max", zeros, -zeros).tobytes() == np.maximum(zeros, -zeros).tobytes()


def test_a_result_may_replace_an_operand():
    left, right = np.array([1.0, 2.0]), np.array([3.0, 5.0])
    KERNEL.combine(reduction("sum"), "float64", flat(left), flat(right), flat(right))
    assert right.tolist() == [4.0, 7.0]


@pytest.mark.parametrize(
    ("op", "dtype"),
    [("band", "float32"), ("bxor", "bfloat16"), ("avg", "int32"), ("avg", "bool")],
)
def test_what_is_not_defined_is_refused(op, dtype):
    with pytest.raises(UsageError, match=f"op {op} is not defined for {dtype}"):
        KERNEL.check(reduction(op), dtype)


@pytest.mark.parametrize(("op", "dtype"), [("band", "bool"), ("sum", "float8_e5m2")])
def test_what_is_defined_passes(op, dtype):
    KERNEL.check(reduction(op), dtype)


def test_overflow_is_infinite_and_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        large = np.full(2, 6e4, np.float16)
        assert np.isinf(combined("sum", large, large)).all()


def test_scaling():
    data = np.array([1.0, 3.0], np.float32)
    KERNEL.divide("float32", flat(data), 2)
    assert data.tolist() == [0.5, 1.5]
    out = np.empty_like(data)
    KERNEL.multiply("float32", flat(data), 3.0, flat(out))
    assert out.tolist() == [1.5, 4.5]
