"""Reductions by torch: each op of each dtype against arithmetic in double precision."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from transport.collectives import NumpyKernel  # noqa: E402  # after the check for torch
from transport.collectives.reduction import Op, Reduction  # noqa: E402
from transport.errors import UsageError  # noqa: E402
from transport.integrations.torch.kernel import TorchKernel  # noqa: E402

KERNEL = TorchKernel()
HALVES = ("float16", "bfloat16")
QUARTERS = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
ARITHMETIC = {
    Op.SUM: torch.add,
    Op.PRODUCT: torch.mul,
    Op.MIN: torch.minimum,
    Op.MAX: torch.maximum,
    Op.AVG: torch.add,
    Op.PREMUL_SUM: torch.add,
}


def operands(name):
    kind = getattr(torch, name)
    left = torch.tensor([1.0, -2.0, 0.5, 3.0, 0.25, 0.0]).to(kind)
    right = torch.tensor([2.0, 0.5, -0.5, 1.5, 4.0, -1.0]).to(kind)
    return left, right


def raw(tensor):
    return memoryview(tensor.view(torch.uint8).numpy())


@pytest.mark.parametrize("op", ARITHMETIC)
@pytest.mark.parametrize("name", HALVES + QUARTERS)
@pytest.mark.parametrize("place", ["apart", "left", "right"])
def test_operands_are_reduced_and_rounded_once(name, op, place):
    left, right = operands(name)
    expected = ARITHMETIC[op](left.double(), right.double()).to(left.dtype)
    out = {"apart": torch.empty_like(left), "left": left, "right": right}[place]
    KERNEL.check(Reduction(op), name)
    KERNEL.combine(Reduction(op), name, raw(left), raw(right), raw(out))
    assert torch.equal(out.float(), expected.float())


@pytest.mark.parametrize("name", HALVES + QUARTERS)
def test_division_and_multiplication(name):
    left, _ = operands(name)
    expected = (left.float() / 3).to(left.dtype)
    divided = left.clone()
    KERNEL.divide(name, raw(divided), 3)
    assert torch.equal(divided.float(), expected.float())
    product = torch.empty_like(left)
    KERNEL.multiply(name, raw(left), 0.5, raw(product))
    assert torch.equal(product.float(), (left.float() * 0.5).to(left.dtype).float())


@pytest.mark.parametrize("op", [Op.BAND, Op.BOR, Op.BXOR])
@pytest.mark.parametrize("name", HALVES + QUARTERS)
def test_bits_of_floats_are_not_reduced(name, op):
    with pytest.raises(UsageError, match=name):
        KERNEL.check(Reduction(op), name)


@pytest.mark.filterwarnings("error")
def test_what_came_in_a_packet_is_reduced_without_a_warning():
    left, right = operands("bfloat16")
    out = torch.empty_like(left)
    KERNEL.combine(
        Reduction(Op.SUM), "bfloat16", raw(left), memoryview(bytes(raw(right))), raw(out)
    )
    assert torch.equal(out, left + right)


def test_everything_else_is_numpys():
    left, right = torch.arange(5), torch.arange(5) * 3
    ours, theirs = torch.empty_like(left), torch.empty_like(left)
    for kernel, out in ((KERNEL, ours), (NumpyKernel(), theirs)):
        kernel.check(Reduction(Op.BXOR), "int64")
        kernel.combine(Reduction(Op.BXOR), "int64", raw(left), raw(right), raw(out))
        kernel.multiply("int64", raw(out), 2, raw(out))
    assert torch.equal(ours, theirs)
    with pytest.raises(UsageError):
        KERNEL.check(Reduction(Op.AVG), "int64")
