"""Reductions by torch, of the dtypes that numpy lacks or is slow at.

numpy keeps what it knows, since it starts no threads and costs less a call. torch
takes bfloat16 and float16, by its own vectorised arithmetic, and the 8-bit floats:
those it can only convert, so each operand is widened to float32, reduced, and rounded
back. Elementwise arithmetic with one fixed order of operands: the same bits everywhere.
"""

from __future__ import annotations

from typing import Any, Final

import torch

from ...collectives import NumpyKernel
from ...collectives.reduction import Op, Reduction
from ...errors import UsageError

# Any stands for torch.dtype and torch.Tensor: checking does not depend on torch.
_DIRECT: Final[dict[str, Any]] = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_WIDENED: Final[dict[str, Any]] = {
    name: getattr(torch, name)
    for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
    if hasattr(torch, name)
}
_OPERATIONS: Final[dict[Op, Any]] = {
    Op.SUM: torch.add,
    Op.AVG: torch.add,
    Op.PREMUL_SUM: torch.add,
    Op.PRODUCT: torch.mul,
    Op.MIN: torch.minimum,
    Op.MAX: torch.maximum,
}


class TorchKernel:
    """torch for half and quarter precision, numpy for everything else; see `Kernel`."""

    def __init__(self) -> None:
        self._numpy = NumpyKernel()

    def check(self, reduction: Reduction, dtype: str) -> None:
        """See `Kernel`."""
        if dtype not in _DIRECT and dtype not in _WIDENED:
            self._numpy.check(reduction, dtype)
        elif reduction.op not in _OPERATIONS:
            raise UsageError(f"op {reduction} is not defined for {dtype}")

    def combine(
        self, reduction: Reduction, dtype: str, left: memoryview, right: memoryview, out: memoryview
    ) -> None:
        """See `Kernel`."""
        kind = _DIRECT.get(dtype)
        if kind is not None:
            operation = _OPERATIONS[reduction.op]
            operation(_operand(left, kind), _operand(right, kind), out=_tensor(out, kind))
            return
        kind = _WIDENED.get(dtype)
        if kind is None:
            self._numpy.combine(reduction, dtype, left, right, out)
            return
        operation = _OPERATIONS[reduction.op]
        wide = operation(_operand(left, kind).float(), _operand(right, kind).float())
        _tensor(out, kind).copy_(wide)

    def divide(self, dtype: str, data: memoryview, ranks: int) -> None:
        """See `Kernel`."""
        if dtype in _DIRECT:
            _tensor(data, _DIRECT[dtype]).div_(ranks)
        elif dtype in _WIDENED:
            narrow = _tensor(data, _WIDENED[dtype])
            narrow.copy_(narrow.float().div_(ranks))
        else:
            self._numpy.divide(dtype, data, ranks)

    def multiply(self, dtype: str, data: memoryview, factor: float, out: memoryview) -> None:
        """See `Kernel`."""
        kind = _DIRECT.get(dtype) or _WIDENED.get(dtype)
        if kind is None:
            self._numpy.multiply(dtype, data, factor, out)
        elif len(data):
            _tensor(out, kind).copy_(_operand(data, kind).float().mul_(factor))


def _operand(memory: memoryview, kind: Any) -> Any:
    """A tensor to read from: a small message lies in bytes, of which torch warns."""
    return _tensor(memoryview(bytearray(memory)) if memory.readonly else memory, kind)


def _tensor(memory: memoryview, kind: Any) -> Any:
    return torch.frombuffer(memory, dtype=kind)
