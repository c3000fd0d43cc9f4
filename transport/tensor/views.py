"""Bytes of tensors, without copies: what to send from and what to receive into.

`source_view` and `destination_view` turn a user's object into a `TensorSpec` and a
flat view of its memory. Sealing reads the one and opening writes the other, so for
a contiguous tensor no byte is copied on the way. Supported are numpy arrays and
scalars, objects of the buffer protocol, of `__array_interface__` and of DLPack on
the CPU, and torch tensors on the CPU (see `transport.tensor.torch_memory`).

Invariants: `data` is one-dimensional, C-contiguous and of format ``B``; its length
is `spec.nbytes`; elements are little-endian, as docs/spec.md section 8.6 asks. What
cannot be viewed raises `UsageError` before anything is sent or consumed.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import LimitError, TruncatedError, UsageError
from . import torch_memory
from .spec import (
    DTYPE_NAMES,
    RAW_DTYPE,
    MalformedSpecError,
    TensorSpec,
    interned,
)

if sys.byteorder != "little":  # pragma: no cover
    raise ImportError("tensors travel little-endian; this host is big-endian")

Array: TypeAlias = npt.NDArray[Any]

_DLPACK_CPU: Final = 1  # kDLCPU in dlpack.h
_BYTE_FORMATS: Final = frozenset({"B", "c"})
_UINT8: Final = np.dtype(np.uint8)
_NUMPY_NAMES: Final = (
    *("longdouble", "clongdouble"),  # first: float64 wins where both have one layout
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)
# Native dtype -> canonical name. Dtypes of ml_dtypes join when they are first seen.
_NAME_OF_DTYPE: Final[dict[np.dtype[Any], str]] = {
    np.dtype(name): name for name in _NUMPY_NAMES if name in DTYPE_NAMES
}
_DTYPE_OF_NAME: Final[dict[str, np.dtype[Any]]] = {
    RAW_DTYPE: _UINT8,
    **{name: np.dtype(name) for name in _NUMPY_NAMES if name in DTYPE_NAMES},
}
_CACHED_SPECS: Final = 1024
_X87_FRACTION_BITS: Final = 63
_X87_BYTES: Final = 10  # of the 12 or 16 that one number occupies
_PADDED_NAMES: Final = (
    frozenset({"longdouble", "clongdouble"})
    if np.finfo(np.longdouble).nmant == _X87_FRACTION_BITS
    else frozenset[str]()
)


class SourceView(NamedTuple):
    """A tensor to send: its description and its bytes, possibly read-only or empty.

    `owner` keeps the memory of `data` alive: the caller's own memory, or the one
    contiguous copy that a strided, Fortran-ordered or big-endian tensor needs.
    """

    spec: TensorSpec
    data: memoryview
    owner: object


class DestinationView(NamedTuple):
    """A tensor to receive into: its description and the bytes to write.

    `raw` is true for plain byte buffers, which take any message up to their size.
    `owner` is the object that the caller gave. `data` is either the owner's own
    memory or a scratch buffer; `finish` makes the difference disappear.
    """

    spec: TensorSpec
    data: memoryview
    raw: bool
    owner: object
    copy_back: Callable[[], object] | None = None

    @property
    def nbytes(self) -> int:
        """Room in bytes."""
        return self.data.nbytes

    def finish(self) -> None:
        """Make the received bytes visible in `owner`; call once, when all are there."""
        if self.copy_back is not None:
            self.copy_back()


def source_view(tensor: object) -> SourceView:
    """Return the description and the bytes of `tensor`, copying only where it must.

    The caller keeps the tensor unchanged while the view is in use.

    Raises:
        UsageError: the object has no bytes on the CPU that a peer could use.
    """
    if type(tensor) is np.ndarray:
        return _source_of_array(tensor)
    if isinstance(tensor, (bytes, bytearray)):
        return SourceView(interned(RAW_DTYPE, (len(tensor),)), memoryview(tensor), tensor)
    if torch_memory.is_tensor(tensor):
        memory = torch_memory.source(tensor)
        return SourceView(_described(memory.dtype, memory.shape), memory.data, memory.owner)
    viewed = _buffer_of(tensor)
    if viewed is not None and viewed.format in _BYTE_FORMATS:
        return _source_of_bytes(viewed, tensor)
    return _source_of_array(_as_array(tensor, viewed))


def destination_view(target: object) -> DestinationView:
    """Return where the bytes of a message for `target` are to be written.

    Call `DestinationView.finish` once the whole message is in `data`.

    Raises:
        UsageError: the object is read-only, or has no bytes on the CPU.
    """
    if type(target) is np.ndarray:
        return _destination_of_array(target, target)
    if torch_memory.is_tensor(target):
        memory = torch_memory.destination(target)
        spec = _described(memory.dtype, memory.shape)
        return DestinationView(spec, memory.data, False, target, memory.copy_back)
    viewed = _buffer_of(target)
    if viewed is not None and viewed.format in _BYTE_FORMATS:
        return _destination_of_bytes(viewed, target)
    if isinstance(target, np.generic):
        raise UsageError("a numpy scalar is read-only; receive into an array")
    return _destination_of_array(_as_array(target, viewed, share=True), target)


def check_fits(destination: DestinationView, spec: TensorSpec) -> None:
    """Return if a message of `spec` may be received into `destination`.

    A raw destination takes every message that is not larger than itself. Bytes
    without a type also fit a uint8 tensor of the same shape, which is what
    `new_array` makes of them.

    Raises:
        TruncatedError: the message is larger than the destination.
        UsageError: dtype or shape differ.
    """
    expected = destination.spec
    if expected is spec:
        return
    if destination.nbytes < spec.nbytes:
        raise TruncatedError(
            f"the message has {spec.nbytes} bytes ({_text(spec)}), "
            f"the buffer only {destination.nbytes} ({_text(expected)})"
        )
    if destination.raw:
        return
    dtype = "uint8" if spec.dtype == RAW_DTYPE else spec.dtype
    if expected.shape != spec.shape or expected.dtype != dtype:
        raise UsageError(f"the message is {_text(spec)}, the buffer is {_text(expected)}")


def new_array(spec: TensorSpec) -> tuple[Array, memoryview]:
    """Return a fresh numpy array for `spec` and the writable bytes of its memory.

    The memory is not cleared: nobody may see the array before all its bytes arrived.
    Bytes without a type become uint8.

    Raises:
        UsageError: numpy knows the dtype only through `ml_dtypes`, which is absent.
        LimitError: there is no memory for an array of this size.
    """
    dtype = _DTYPE_OF_NAME.get(spec.dtype)
    if dtype is None:
        dtype = _dtype_from_ml_dtypes(spec.dtype)
    try:
        array: Array = np.empty(spec.shape, dtype)
    except (MemoryError, ValueError) as error:
        raise LimitError(f"no memory for {_text(spec)}, {spec.nbytes} bytes") from error
    return array, _bytes_of(array)


@lru_cache(maxsize=_CACHED_SPECS)
def _native_spec(dtype: np.dtype[Any], shape: tuple[int, ...]) -> TensorSpec | None:
    """The spec of a native array whose every byte counts; None where there is more to do."""
    name = _NAME_OF_DTYPE.get(dtype)
    return None if name is None or name in _PADDED_NAMES else _described(name, shape)


def _source_of_array(array: Array) -> SourceView:
    spec = _native_spec(array.dtype, array.shape)
    if spec is not None:
        # `ravel` copies where the array is not C-contiguous and nowhere else.
        flat = array.ravel()
        return SourceView(spec, flat.view(_UINT8).data, flat)
    return _source_of_other_array(array)


def _source_of_other_array(array: Array) -> SourceView:
    name = _NAME_OF_DTYPE.get(array.dtype)
    if name is None:
        native = _native_dtype(array.dtype)
        name = _NAME_OF_DTYPE[native]
        if native != array.dtype:
            array = array.astype(native, order="C")
    flat = array.ravel()
    if name in _PADDED_NAMES:
        flat = _without_padding(flat)
    return SourceView(_described(name, array.shape), flat.view(_UINT8).data, flat)


def _without_padding(flat: Array) -> Array:
    """Return a copy of x87 numbers whose unused bytes are zero.

    Nothing ever writes those bytes, so they hold stale memory of this process, which
    is not the peer's to see.
    """
    clean = flat.copy()
    one_number = np.dtype(np.longdouble).itemsize
    clean.view(_UINT8).reshape(-1, one_number)[:, _X87_BYTES:] = 0
    return clean


def _destination_of_array(array: Array, owner: object) -> DestinationView:
    flags = array.flags
    if not flags.writeable:
        raise UsageError(f"a read-only {_kind(owner)} cannot receive")
    known = _native_spec(array.dtype, array.shape)
    if known is not None and flags.c_contiguous:
        return DestinationView(known, _bytes_of(array), False, owner)
    native = array.dtype
    if native not in _NAME_OF_DTYPE:
        native = _native_dtype(native)
    spec = _described(_NAME_OF_DTYPE[native], array.shape)
    if native == array.dtype and flags.c_contiguous:
        return DestinationView(spec, _bytes_of(array), False, owner)
    scratch: Array = np.empty(array.shape, native)
    copy_back = partial(np.copyto, array, scratch)
    return DestinationView(spec, _bytes_of(scratch), False, owner, copy_back)


def _source_of_bytes(viewed: memoryview, owner: object) -> SourceView:
    if not viewed.c_contiguous:
        owner = viewed.tobytes()
        viewed = memoryview(owner)
    return SourceView(interned(RAW_DTYPE, (viewed.nbytes,)), _flat(viewed), owner)


def _destination_of_bytes(viewed: memoryview, owner: object) -> DestinationView:
    if viewed.readonly:
        raise UsageError(f"a read-only {_kind(owner)} cannot receive")
    if not viewed.c_contiguous:
        # A message may be shorter than a raw buffer, so copying back from scratch
        # would write bytes that nobody sent.
        raise UsageError("a strided byte buffer cannot receive; pass a contiguous one")
    return DestinationView(interned(RAW_DTYPE, (viewed.nbytes,)), _flat(viewed), True, owner)


def _flat(viewed: memoryview) -> memoryview:
    """Return a contiguous byte buffer as one dimension of format ``B``."""
    if viewed.ndim == 1 and viewed.format == "B":
        return viewed
    if viewed.nbytes == 0:  # `cast` refuses shapes with a zero
        return memoryview(bytearray())
    return viewed.cast("B")


def _bytes_of(array: Array) -> memoryview:
    """Return the memory of a C-contiguous array; 0-d and empty ones included."""
    return array.reshape(-1).view(_UINT8).data


def _buffer_of(candidate: object) -> memoryview | None:
    """Return the buffer of a plain buffer object, or None where it offers none."""
    if isinstance(candidate, (np.ndarray, np.generic)):
        return None
    try:
        return memoryview(candidate)  # type: ignore[arg-type]  # asking is the only test
    except (TypeError, ValueError, BufferError):
        return None


def _as_array(candidate: object, viewed: memoryview | None, *, share: bool = False) -> Array:
    """Return a numpy array over the memory of `candidate`.

    With `share`, an array that is a copy of the memory is an error, too.
    """
    if isinstance(candidate, np.ma.MaskedArray):
        raise UsageError("a masked array would lose its mask; pass its data or fill it")
    if isinstance(candidate, np.ndarray):
        return candidate.view(np.ndarray)
    if isinstance(candidate, np.generic):
        return np.asarray(candidate)
    try:
        if viewed is not None:
            return np.asarray(viewed)
        if hasattr(candidate, "__array_interface__"):
            return np.asarray(candidate)
        if hasattr(candidate, "__dlpack__"):
            return _from_dlpack(candidate, share=share)
    except (TypeError, ValueError, BufferError, RuntimeError) as error:
        raise UsageError(f"cannot use the memory of {_kind(candidate)}: {error}") from error
    raise UsageError(
        f"{_kind(candidate)} is no tensor: pass a numpy array, a torch CPU tensor, bytes, "
        "or an object with the buffer protocol, __array_interface__ or DLPack on the CPU"
    )


def _from_dlpack(candidate: Any, *, share: bool) -> Array:
    # Any: DLPack is a protocol of attributes, and the object may be of any library.
    device, _ = candidate.__dlpack_device__()
    if device != _DLPACK_CPU:
        raise UsageError(
            f"{_kind(candidate)} lies on DLPack device {int(device)}; device tensors are "
            "not supported yet, copy it to the CPU first"
        )
    if share:  # before numpy 2.1 there is no such argument, and the array is read-only
        return np.from_dlpack(candidate, copy=False)
    return np.from_dlpack(candidate)


def _native_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the little-endian dtype for `dtype`, one that `_NAME_OF_DTYPE` knows.

    Raises:
        UsageError: elements of this dtype are not numbers of a fixed size.
    """
    native = dtype.newbyteorder("=") if dtype.isbuiltin != 2 else dtype
    if native in _NAME_OF_DTYPE:
        return native
    registered_with_numpy = dtype.isbuiltin == 2
    if registered_with_numpy and dtype.name in DTYPE_NAMES:
        _NAME_OF_DTYPE[dtype] = dtype.name
        return dtype
    raise UsageError(
        f"dtype {dtype} cannot travel: only booleans, integers, floats and complex "
        "numbers of a fixed size can"
    )


def _dtype_from_ml_dtypes(name: str) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = np.dtype(getattr(importlib.import_module("ml_dtypes"), name))
    except (ImportError, AttributeError):
        raise UsageError(
            f"numpy has no {name}: install ml_dtypes (pip install 'sealfabric[ml]') or pass "
            "the tensor to receive into as out="
        ) from None
    return dtype


def _described(dtype: str, shape: tuple[int, ...]) -> TensorSpec:
    """Return the spec of a local tensor; a limit of the wire is the caller's error."""
    try:
        return interned(dtype, shape)
    except MalformedSpecError as error:
        raise UsageError(f"the tensor cannot be described: {error}") from error


def _text(spec: TensorSpec) -> str:
    return f"{spec.dtype}{list(spec.shape)}"


def _kind(candidate: object) -> str:
    return type(candidate).__name__
