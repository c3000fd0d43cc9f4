"""What torch's calls with several tensors become: operations over flat memory.

Each function begins one operation of a group, and returns it with what is to be done
once it has ended. Sizes are checked here, since a list can be wrong by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...collectives import Group, PremulSum
from ...node import Work
from .errors import refused
from .operands import Target, Targets, check_dtype, check_equal_sizes, joined, packed

Begun = tuple[Work[Any], Callable[[], object] | None]
Op = str | PremulSum
Limit = float | None


def all_gather(group: Group, outputs: Sequence[Any], tensor: Any, timeout: Limit) -> Begun:
    """Every rank's `tensor`, into a list of tensors."""
    source, target = packed(tensor), Targets(_one_each(outputs, group, "all_gather"))
    check_dtype(source, target.flat, "all_gather")
    check_equal_sizes(target.sizes, source.numel(), "all_gather")
    return group.iall_gather(source, out=target.flat, timeout=timeout), target.store


def all_gather_single(group: Group, output: Any, tensor: Any, timeout: Limit) -> Begun:
    """Every rank's `tensor`, one after the other in `output`."""
    source, target = packed(tensor), Target(output)
    check_dtype(source, target.flat, "all_gather_into_tensor")
    _check_multiple(group, target.flat, source, "all_gather_into_tensor: the output")
    return group.iall_gather(source, out=target.flat, timeout=timeout), target.store


def gather(group: Group, outputs: Sequence[Any], tensor: Any, root: int, timeout: Limit) -> Begun:
    """Every rank's `tensor`, into a list of tensors at the root."""
    source = packed(tensor)
    if group.rank != root:
        return group.igather(source, root=root, timeout=timeout), None
    target = Targets(_one_each(outputs, group, "gather"))
    check_dtype(source, target.flat, "gather")
    check_equal_sizes(target.sizes, source.numel(), "gather")
    return group.igather(source, root=root, out=target.flat, timeout=timeout), target.store


def gather_single(group: Group, output: Any, tensor: Any, root: int, timeout: Limit) -> Begun:
    """Every rank's `tensor`, one after the other in the root's `output`."""
    source = packed(tensor)
    if group.rank != root:
        return group.igather(source, root=root, timeout=timeout), None
    target = Target(output)
    check_dtype(source, target.flat, "gather_single")
    _check_multiple(group, target.flat, source, "gather_single: the output")
    return group.igather(source, root=root, out=target.flat, timeout=timeout), target.store


def scatter(group: Group, output: Any, inputs: Sequence[Any], root: int, timeout: Limit) -> Begun:
    """The root's tensors, one to each rank."""
    target = Target(output)
    if group.rank != root:
        return group.iscatter(root=root, out=target.flat, timeout=timeout), target.store
    _check_count(inputs, group, "scatter")
    source = joined(inputs)
    check_dtype(source, target.flat, "scatter")
    check_equal_sizes([each.numel() for each in inputs], target.flat.numel(), "scatter")
    return group.iscatter(source, root=root, out=target.flat, timeout=timeout), target.store


def reduce_scatter(
    group: Group, output: Any, inputs: Sequence[Any], op: Op, timeout: Limit
) -> Begun:
    """The sums of every rank's tensors; each rank has that of its number."""
    _check_count(inputs, group, "reduce_scatter")
    source, target = joined(inputs), Target(output)
    check_dtype(source, target.flat, "reduce_scatter")
    sizes = [each.numel() for each in inputs]
    check_equal_sizes(sizes, target.flat.numel(), "reduce_scatter")
    return group.ireduce_scatter(source, op, out=target.flat, timeout=timeout), target.store


def reduce_scatter_single(group: Group, output: Any, tensor: Any, op: Op, timeout: Limit) -> Begun:
    """The same with the inputs of a rank one after the other."""
    source, target = packed(tensor), Target(output)
    check_dtype(source, target.flat, "reduce_scatter_tensor")
    _check_multiple(group, source, target.flat, "reduce_scatter_tensor: the input")
    return group.ireduce_scatter(source, op, out=target.flat, timeout=timeout), target.store


def all_to_all(
    group: Group, outputs: Sequence[Any], inputs: Sequence[Any], timeout: Limit
) -> Begun:
    """A tensor to and from each rank; sizes may differ."""
    _check_count(inputs, group, "all_to_all")
    source, target = joined(inputs), Targets(_one_each(outputs, group, "all_to_all"))
    check_dtype(source, target.flat, "all_to_all")
    work = group.iall_to_all(
        source,
        out=target.flat,
        send_splits=[each.numel() for each in inputs],
        recv_splits=target.sizes,
        timeout=timeout,
    )
    return work, target.store


def all_to_all_single(
    group: Group,
    output: Any,
    tensor: Any,
    output_splits: Sequence[int],
    input_splits: Sequence[int],
    timeout: Limit,
) -> Begun:
    """Rows to and from each rank; without splits, as many for each."""
    source, target = packed(tensor), Target(output)
    check_dtype(source, target.flat, "all_to_all_single")
    work = group.iall_to_all(
        source,
        out=target.flat,
        send_splits=_elements(input_splits, tensor, group, "input"),
        recv_splits=_elements(output_splits, output, group, "output"),
        timeout=timeout,
    )
    return work, target.store


def _elements(splits: Sequence[int], tensor: Any, group: Group, which: str) -> list[int]:
    """Elements for each rank, from rows for each rank."""
    rows = tensor.shape[0] if tensor.dim() else 1
    if not len(splits):
        if rows % group.size:
            raise refused(
                f"all_to_all_single: the {which} has {rows} rows, which cannot be divided "
                f"evenly among {group.size} ranks"
            )
        return [tensor.numel() // group.size] * group.size
    if len(splits) != group.size or sum(splits) != rows or min(splits) < 0:
        raise refused(
            f"all_to_all_single: the {which} splits {list(splits)} must be {group.size} "
            f"numbers with the sum {rows}"
        )
    row = tensor.numel() // rows if rows else 0
    return [each * row for each in splits]


def _one_each(outputs: Sequence[Any], group: Group, what: str) -> Sequence[Any]:
    _check_count(outputs, group, what)
    return outputs


def _check_count(tensors: Sequence[Any], group: Group, what: str) -> None:
    if len(tensors) != group.size:
        raise refused(f"{what}: {len(tensors)} tensors for {group.size} ranks")


def _check_multiple(group: Group, whole: Any, part: Any, what: str) -> None:
    if whole.numel() != group.size * part.numel():
        raise refused(
            f"{what} must have {group.size} times {part.numel()} elements, it has {whole.numel()}"
        )
