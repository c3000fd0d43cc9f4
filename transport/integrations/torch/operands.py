"""torch tensors as flat memory: what a `Group` sends from and receives into.

A contiguous tensor is used in place. Any other is packed into a contiguous copy, and
what was received is copied back when the operation has ended. Lists of tensors become
one flat tensor, without a copy where they lie one behind the other in memory, as the
chunks of one tensor do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .errors import refused

# Any stands for torch.Tensor throughout: checking does not depend on torch.


def checked(tensor: Any, what: str = "the tensor") -> Any:
    """Return `tensor` if its bytes can travel.

    Raises:
        UsageError: it is on another device than the CPU, or of another kind than dense.
    """
    if not isinstance(tensor, torch.Tensor):
        raise refused(f"{what} must be a torch tensor, got {type(tensor).__name__}")
    if tensor.layout is not torch.strided:
        raise refused(
            f"{what} has layout {tensor.layout}: only all_reduce takes sparse tensors, and "
            "only sparse_coo"
        )
    return tensor


def packed(tensor: Any) -> Any:
    """The elements of `tensor`, flat and contiguous, to send from."""
    plain = checked(tensor).detach()
    if plain.is_conj() or plain.is_neg():
        plain = plain.resolve_conj().resolve_neg()
    return plain.reshape(-1)  # copies only what is not contiguous


class Target:
    """Flat memory to receive a tensor into; `store` makes it visible in the tensor."""

    __slots__ = ("flat", "store")

    def __init__(self, tensor: Any, *, load: bool = False) -> None:
        plain = checked(tensor).detach()
        self.store: Callable[[], object] | None = None
        if plain.is_contiguous() and not plain.is_conj() and not plain.is_neg():
            self.flat = plain.view(-1)
            return
        _check_distinct(plain)
        self.flat = plain.reshape(-1).clone() if load else plain.new_empty(plain.numel())
        self.store = lambda: plain.copy_(self.flat.view(plain.shape))


class Targets:
    """Flat memory to receive a list of tensors into, of equal dtype; sizes may differ."""

    __slots__ = ("flat", "sizes", "store")

    def __init__(self, tensors: Sequence[Any]) -> None:
        plain = [checked(each).detach() for each in tensors]
        _check_one_dtype(plain)
        self.sizes = [each.numel() for each in plain]
        self.store: Callable[[], object] | None = None
        whole = _lying_together(plain)
        if whole is not None:
            self.flat = whole
            return
        for each in plain:
            _check_distinct(each)
        self.flat = plain[0].new_empty(sum(self.sizes))

        def store() -> None:
            for each, part in zip(plain, self.flat.split(self.sizes), strict=True):
                each.copy_(part.view(each.shape))

        self.store = store


def joined(tensors: Sequence[Any]) -> Any:
    """The elements of all `tensors` one after the other, flat, to send from."""
    plain = [checked(each).detach() for each in tensors]
    _check_one_dtype(plain)
    whole = _lying_together(plain)
    return torch.cat([packed(each) for each in plain]) if whole is None else whole


def check_equal_sizes(sizes: Sequence[int], size: int, what: str) -> None:
    """Return if every block has `size` elements.

    Raises:
        UsageError: one has not.
    """
    for rank, each in enumerate(sizes):
        if each != size:
            raise refused(f"{what}: the tensor of rank {rank} has {each} elements, not {size}")


def check_dtype(one: Any, other: Any, what: str) -> None:
    """Return if both tensors have one dtype.

    Raises:
        UsageError: they have not.
    """
    if one.dtype is not other.dtype:
        raise refused(f"{what}: the input is {one.dtype}, the output {other.dtype}")


def _check_one_dtype(tensors: Sequence[Any]) -> None:
    if not tensors:
        raise refused("the list of tensors is empty")
    for each in tensors:
        check_dtype(tensors[0], each, "the tensors of a list differ")


def _check_distinct(tensor: Any) -> None:
    strides = zip(tensor.shape, tensor.stride(), strict=True)
    if any(size > 1 and stride == 0 for size, stride in strides):
        raise refused("several elements of the tensor share one place in memory")


def _lying_together(tensors: Sequence[Any]) -> Any | None:
    """One flat tensor over the memory of all, where each begins where the last one ends."""
    first = tensors[0]
    storage, at = first.untyped_storage().data_ptr(), first.storage_offset()
    for each in tensors:
        if (
            not each.is_contiguous()
            or each.is_conj()
            or each.is_neg()
            or each.storage_offset() != at
            or each.untyped_storage().data_ptr() != storage
        ):
            return None
        at += each.numel()
    return first.as_strided((at - first.storage_offset(),), (1,))
