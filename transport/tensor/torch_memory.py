"""Bytes of torch tensors on the CPU, without importing torch.

A torch tensor can only exist where the caller has imported torch, so the module is
taken from `sys.modules` and never loaded here. The bytes are reached by their address:
numpy, DLPack and memoryview know neither bfloat16 nor float8, and `Tensor.numpy()` makes
a storage that cannot be resized ever after, which sharded training lives by.

Invariants: nothing here changes a tensor except `Memory.copy_back`, and autograd
sees none of it: what is received is data, not an operation to differentiate.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..errors import UsageError
from .spec import DTYPE_NAMES, RAW_DTYPE

# Any stands for torch.Tensor and torch.dtype below: torch is not a dependency.
_names: dict[Any, str] = {}


class Memory(NamedTuple):
    """The bytes of one tensor, with what describes and what keeps them."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview
    owner: object
    copy_back: Callable[[], object] | None = None


def is_tensor(candidate: object) -> bool:
    """Return whether `candidate` is a torch tensor of any kind or device."""
    torch = sys.modules.get("torch")
    # A module that is only half imported has no `Tensor` yet, and no instances.
    tensor_class = getattr(torch, "Tensor", None)
    return tensor_class is not None and isinstance(candidate, tensor_class)


def source(tensor: Any) -> Memory:
    """Return the bytes of `tensor`, copied once if it is strided, conjugated or negated.

    Raises:
        UsageError: the tensor has no plain bytes on the CPU.
    """
    name = _checked_name(tensor)
    plain = tensor.detach()
    if not _is_plain(plain):
        plain = plain.resolve_conj().resolve_neg().contiguous()
    return Memory(name, tuple(tensor.shape), _bytes_of(plain), plain)


def destination(tensor: Any) -> Memory:
    """Return the bytes to write so that `tensor` changes in place.

    Raises:
        UsageError: the tensor has no plain bytes on the CPU, or some of its elements
            share one place in memory.
    """
    name = _checked_name(tensor)
    shape = tuple(tensor.shape)
    plain = tensor.detach()
    if _is_plain(plain):
        return Memory(name, shape, _bytes_of(plain), tensor)
    if any(size > 1 and stride == 0 for size, stride in zip(shape, plain.stride(), strict=True)):
        raise UsageError("several elements of the tensor share one place in memory")
    scratch = sys.modules["torch"].empty(shape, dtype=tensor.dtype)
    return Memory(name, shape, _bytes_of(scratch), tensor, partial(plain.copy_, scratch))


def _is_plain(tensor: Any) -> bool:
    """Return whether the memory of `tensor` is its elements, in order and as they are.

    Conjugation and negation are lazy in torch: flags that the bytes do not show.
    """
    return bool(tensor.is_contiguous()) and not tensor.is_conj() and not tensor.is_neg()


class _Bytes:
    """The memory of a tensor, for numpy to look at; what looks keeps the tensor alive."""

    __slots__ = ("__array_interface__", "_tensor")

    def __init__(self, tensor: Any, address: int, size: int) -> None:
        self._tensor = tensor
        self.__array_interface__ = {
            "data": (address, False),
            "shape": (size,),
            "typestr": "|u1",
            "version": 3,
        }


def _bytes_of(plain: Any) -> memoryview:
    # Subclasses (fake, functional, wrapped tensors) may own no memory at all.
    try:
        size, address = plain.nbytes, plain.data_ptr()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise UsageError(f"cannot use the memory of {type(plain).__name__}: {error}") from error
    if not size:
        return memoryview(bytearray())
    if not address:
        raise UsageError(f"cannot use the memory of {type(plain).__name__}: it has none")
    return np.asarray(_Bytes(plain, address, size)).data


def _checked_name(tensor: Any) -> str:
    """Return the canonical dtype of a tensor whose bytes can be reached.

    Raises:
        UsageError: says which property stands in the way.
    """
    torch: Any = sys.modules["torch"]
    if not tensor.is_cpu:
        raise UsageError(
            f"the tensor lies on device {tensor.device}; device tensors are not supported "
            "yet, copy it to the CPU first"
        )
    if tensor.layout is not torch.strided:
        raise UsageError(f"a tensor of layout {tensor.layout} has no plain bytes; use to_dense()")
    if tensor.is_quantized:
        raise UsageError("a quantized tensor would lose its scale; use dequantize() or int_repr()")
    if hasattr(tensor, "to_local"):
        raise UsageError("a distributed tensor holds only a part; pass its to_local()")
    return _names.get(tensor.dtype) or _learned_name(tensor.dtype)


def _learned_name(dtype: Any) -> str:
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPE_NAMES or name == RAW_DTYPE:
        raise UsageError(
            f"dtype {dtype} cannot travel: only booleans, integers, floats and complex "
            "numbers of a fixed size can"
        )
    _names[dtype] = name
    return name
