"""What ranks may reduce with, and how numpy does it.

A kernel works on flat bytes of a named dtype, so that another library can take
numpy's place for the dtypes that it knows better. Results are the same on every rank
and in every run: the caller fixes the order of operands, and each kernel's result
depends on nothing else.
"""

from __future__ import annotations

import threading
from contextvars import Context, copy_context
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from ..tensor.spec import TensorSpec
from ..tensor.views import new_array

Array = npt.NDArray[Any]


class Op(Enum):
    """A reduction by name; the values are codes on the wire."""

    SUM = 1
    AVG = 2  # the sum, divided by the number of ranks at the end
    PRODUCT = 3
    MIN = 4
    MAX = 5
    BAND = 6
    BOR = 7
    BXOR = 8
    PREMUL_SUM = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class PremulSum:
    """The sum of contributions, each multiplied by its own rank's `factor` before."""

    factor: float


@dataclass(frozen=True, slots=True)
class Reduction:
    """An operation as it was asked for; `factor` is this rank's own, for PREMUL_SUM."""

    op: Op
    factor: float | None = None

    def __str__(self) -> str:
        return self.op.name.lower()


_NAMED: Final = {each.name.lower(): Reduction(each) for each in Op if each is not Op.PREMUL_SUM}


def reduction(op: str | PremulSum | Reduction) -> Reduction:
    """Parse what the caller gave.

    Raises:
        UsageError: no operation has this name.
    """
    if isinstance(op, Reduction):
        return op
    if isinstance(op, PremulSum):
        return Reduction(Op.PREMUL_SUM, op.factor)
    known = _NAMED.get(op) if isinstance(op, str) else None
    if known is None:
        raise UsageError(f"op must be one of {', '.join(_NAMED)}, or a PremulSum, got {op!r}")
    return known


class Kernel(Protocol):
    """Arithmetic on flat bytes of one dtype, named as in `TensorSpec`."""

    def check(self, reduction: Reduction, dtype: str) -> None:
        """Return if this operation is defined for this dtype.

        Raises:
            UsageError: it is not.
        """
        ...

    def combine(
        self, reduction: Reduction, dtype: str, left: memoryview, right: memoryview, out: memoryview
    ) -> None:
        """Store `left` reduced with `right` in `out`, which may be either of them."""
        ...

    def divide(self, dtype: str, data: memoryview, ranks: int) -> None:
        """Divide by the number of ranks, in place."""
        ...

    def multiply(self, dtype: str, data: memoryview, factor: float, out: memoryview) -> None:
        """Store `data` times `factor` in `out`, which may be the same memory."""
        ...


_UFUNCS: Final[dict[Op, np.ufunc]] = {
    Op.SUM: np.add,
    Op.AVG: np.add,
    Op.PRODUCT: np.multiply,
    Op.MIN: np.minimum,
    Op.MAX: np.maximum,
    Op.BAND: np.bitwise_and,
    Op.BOR: np.bitwise_or,
    Op.BXOR: np.bitwise_xor,
    Op.PREMUL_SUM: np.add,
}
_SCALED: Final = frozenset({Op.AVG, Op.PREMUL_SUM})


class NumpyKernel:
    """numpy's ufuncs, over its own dtypes and those of ml_dtypes.

    A sum of booleans is whether any is true, as in numpy; integers wrap around; an
    overflowing float is infinite, without a warning.
    """

    def check(self, reduction: Reduction, dtype: str) -> None:
        """See `Kernel`."""
        if not _defined(reduction.op, dtype):
            raise UsageError(f"op {reduction} is not defined for {dtype}")

    def combine(
        self, reduction: Reduction, dtype: str, left: memoryview, right: memoryview, out: memoryview
    ) -> None:
        """See `Kernel`."""
        kind, view = _numpy_dtype(dtype), np.frombuffer
        _silently(_UFUNCS[reduction.op], view(left, kind), view(right, kind), view(out, kind))

    def divide(self, dtype: str, data: memoryview, ranks: int) -> None:
        """See `Kernel`."""
        array = np.frombuffer(data, _numpy_dtype(dtype))
        _silently(np.divide, array, array.dtype.type(ranks), array)

    def multiply(self, dtype: str, data: memoryview, factor: float, out: memoryview) -> None:
        """See `Kernel`."""
        kind = _numpy_dtype(dtype)
        source, target = np.frombuffer(data, kind), np.frombuffer(out, kind)
        _silently(np.multiply, source, kind.type(factor), target)


_thread: Final = threading.local()


def _silently(ufunc: np.ufunc, left: Array, right: Any, out: Array) -> None:
    """Compute without warnings of overflow and the like.

    numpy keeps what it warns of in the context of the caller. To enter a context that was
    set up once costs a fifth of setting one up; before numpy 2, contexts do not carry it.
    """
    context: Context | None = getattr(_thread, "context", None)
    if context is not None:
        context.run(ufunc, left, right, out=out)
        return
    with np.errstate(all="ignore"):
        context = copy_context()
        ufunc(left, right, out=out)
    if context.run(np.geterr)["over"] == "ignore":
        _thread.context = context


@lru_cache(maxsize=64)
def _numpy_dtype(name: str) -> np.dtype[Any]:
    """numpy's dtype of this name.

    Raises:
        UsageError: numpy knows it only through `ml_dtypes`, which is absent.
    """
    array, _ = new_array(TensorSpec(name, (0,)))
    dtype: np.dtype[Any] = array.dtype
    return dtype


@lru_cache(maxsize=512)
def _defined(op: Op, dtype: str) -> bool:
    """Whether numpy can do it, found out by doing it once."""
    kind = _numpy_dtype(dtype)
    one = np.ones(1, kind)
    try:
        with np.errstate(all="ignore"):
            _UFUNCS[op](one, one, out=one)
            if op in _SCALED:
                np.divide(one, kind.type(1), out=one)
    except TypeError:
        return False
    return True
