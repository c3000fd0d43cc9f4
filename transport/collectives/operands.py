"""The tensors of an operation as flat bytes, and how they are divided among ranks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from ..errors import UsageError
from ..tensor.spec import TensorSpec, interned
from ..tensor.views import DestinationView, destination_view, new_array, source_view


def updatable(tensor: object) -> DestinationView:
    """A view of `tensor` to read from and to write to.

    A tensor that is not contiguous is worked on in a copy, which `finish` stores.

    Raises:
        UsageError: it is read-only, or no tensor.
    """
    view = destination_view(tensor)
    if view.copy_back is not None and view.nbytes:
        view.data[:] = source_view(tensor).data
    return view


def output(out: object, spec: TensorSpec) -> DestinationView:
    """A view of `out`, or of a new numpy array of this dtype and shape.

    `out` may have another shape, with as many elements.

    Raises:
        UsageError: `out` has another dtype or size.
    """
    if out is None:
        array, data = new_array(spec)
        return DestinationView(spec, data, False, array)
    view = destination_view(out)
    if view.spec.dtype != spec.dtype or view.nbytes != spec.nbytes:
        raise UsageError(f"out must hold {described(spec)}, it is {described(view.spec)}")
    return view


def described(spec: TensorSpec) -> str:
    """A dtype and shape in words."""
    return f"{spec.dtype}{list(spec.shape)}"


def rows(spec: TensorSpec, count: int) -> TensorSpec:
    """The same tensor with another length of its first axis; a scalar counts as one row."""
    return interned(spec.dtype, (count, *spec.shape[1:]))


def row_count(spec: TensorSpec) -> int:
    """The length of the first axis."""
    return spec.shape[0] if spec.shape else 1


def even_rows(spec: TensorSpec, size: int) -> int:
    """How many rows each of `size` ranks has of a tensor.

    Raises:
        UsageError: the first axis cannot be divided evenly.
    """
    count = row_count(spec)
    if count % size:
        raise UsageError(
            f"the first axis of {described(spec)} cannot be divided evenly among {size} ranks"
        )
    return count // size


def split_bounds(counts: Sequence[int], row_bytes: int) -> list[int]:
    """Where blocks of so many rows begin, in bytes, and where the last one ends."""
    return [0, *accumulate(count * row_bytes for count in counts)]


def even_bounds(elements: int, blocks: int, itemsize: int) -> list[int]:
    """The same for blocks of as equal a number of elements as can be."""
    least, more = divmod(elements, max(1, blocks))
    counts = [least + (number < more) for number in range(blocks)]
    return split_bounds(counts, itemsize)


def checked_splits(splits: Sequence[int] | None, size: int, rows: int, what: str) -> list[int]:
    """Rows for each rank, by default evenly.

    Raises:
        UsageError: not one number for each rank, or not as many rows as there are.
    """
    if splits is None:
        if rows % size:
            raise UsageError(f"{rows} rows cannot be divided evenly among {size} ranks: {what}")
        return [rows // size] * size
    counts: list[Any] = list(splits)
    if len(counts) != size or any(type(each) is not int or each < 0 for each in counts):
        raise UsageError(f"{what} must hold {size} whole numbers of rows, got {counts}")
    if sum(counts) != rows:
        raise UsageError(f"{what} has {sum(counts)} rows in all, the tensor {rows}")
    return counts


def stored(target: DestinationView) -> object:
    """Make a result visible in the caller's object, and return that."""
    target.finish()
    return target.owner


def given(array: object) -> object:
    """What an operation returns that only read its tensor."""
    return array


def nothing() -> None:
    """What an operation without a result returns."""
