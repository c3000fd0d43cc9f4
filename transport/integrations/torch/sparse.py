"""all_reduce of sparse tensors: every rank gathers all entries, and sums them alike.

Three gatherings: what each rank asks for, of which dtype and shape and how many entries,
then indices, then values, both padded to the largest number. All ranks add the same
entries in the same order, so the result has the same bits everywhere. What ranks disagree
about all of them see in the first gathering, and refuse: so none waits for another, and
the group is as good as before.
"""

from __future__ import annotations

from typing import Any, Final

import torch

from ...collectives import Group
from .errors import refused

_DIMENSIONS: Final = 16
_REDUCED: Final = ("sum", "avg")
_WHOLE: Final = ("bool", "uint8", "int8", "int16", "int32", "int64")
_DTYPES: Final = (
    *_WHOLE,
    *("float16", "bfloat16", "float32", "float64", "complex32", "complex64", "complex128"),
)


def all_reduce(group: Group, tensor: Any, op: object, timeout: float | None) -> Any:
    """Return the sum of every rank's sparse COO tensor, coalesced. Blocks.

    Raises:
        UsageError: another op than sum and avg, an average of integers, another layout or
            dtype, or ranks disagree.
        TransportError: as for every operation of a group.
    """
    if tensor.layout is not torch.sparse_coo:
        raise refused(f"all_reduce of layout {tensor.layout}: only sparse_coo is reduced")
    if op not in _REDUCED:
        raise refused(f"sparse tensors can be reduced by {' and '.join(_REDUCED)}, not by {op}")
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in _DTYPES:
        raise refused(f"sparse tensors of dtype {dtype} are not reduced")
    if tensor.dim() > _DIMENSIONS:
        raise refused(f"a sparse tensor of {tensor.dim()} dimensions, at most {_DIMENSIONS}")
    mine = tensor.detach().coalesce()
    described = torch.zeros(5 + _DIMENSIONS, dtype=torch.int64)
    kind = _REDUCED.index(op), _DTYPES.index(dtype)
    asked = (*kind, mine.sparse_dim(), mine.dense_dim(), *mine.shape)
    described[0] = mine._nnz()
    described[1 : 1 + len(asked)] = torch.tensor(asked)
    everyone = torch.empty(group.size * len(described), dtype=torch.int64)
    group.all_gather(described, out=everyone, timeout=timeout)
    counts = _agreed(everyone.view(group.size, -1), group.rank)
    if op == "avg" and dtype in _WHOLE:
        raise refused(f"op avg is not defined for {dtype}, sparse or dense")
    longest = max(counts)
    indices = _gathered(group, mine.indices(), longest, 1, timeout)
    values = _gathered(group, mine.values(), longest, 0, timeout)
    total = torch.sparse_coo_tensor(
        torch.cat([each[:, :count] for each, count in zip(indices, counts, strict=True)], 1),
        torch.cat([each[:count] for each, count in zip(values, counts, strict=True)]),
        tensor.shape,
    ).coalesce()
    return total.div_(group.size) if op == "avg" else total


def _agreed(described: Any, rank: int) -> list[int]:
    """How many entries each rank has.

    Raises:
        UsageError: the ranks have tensors of different dtype or shape, or ask for different ops.
    """
    our_op, our_dtype, *ours = described[rank, 1:].tolist()
    for other, (op, dtype, *theirs) in enumerate(described[:, 1:].tolist()):
        if (op, dtype) != (our_op, our_dtype):
            raise refused(
                f"all_reduce of sparse tensors: rank {other} reduces {_DTYPES[dtype]} by "
                f"{_REDUCED[op]}, rank {rank} {_DTYPES[our_dtype]} by {_REDUCED[our_op]}"
            )
        if theirs != ours:
            raise refused(
                f"all_reduce of sparse tensors: rank {other} has sparse and dense dimensions "
                f"and shape {_trimmed(theirs)}, rank {rank} {_trimmed(ours)}"
            )
    counts: list[int] = described[:, 0].tolist()
    return counts


def _trimmed(described: list[int]) -> list[int]:
    return described[: 2 + described[0] + described[1]]


def _gathered(group: Group, part: Any, longest: int, axis: int, timeout: float | None) -> list[Any]:
    """Every rank's indices or values, each padded along `axis`."""
    shape = list(part.shape)
    count, shape[axis] = shape[axis], longest
    padded = part.new_zeros(shape)
    padded.narrow(axis, 0, count).copy_(part)
    everyone = part.new_empty(group.size * padded.numel())
    group.all_gather(padded.view(-1), out=everyone, timeout=timeout)
    return list(everyone.view(group.size, *shape).unbind(0))
