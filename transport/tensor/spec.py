"""What a tensor is, without its bytes: dtype and shape, and their form on the wire.

A message announces its tensor with a `TensorSpec`. The encoding follows
docs/spec.md section 8.6: dtype code u8, number of dimensions u8, then each
dimension as u64, little-endian. The codes in this file are part of the wire
protocol: a code is never reused for another meaning.

Invariants: a `TensorSpec` that exists is valid, so its size fits a signed 64-bit
integer and every receiver can allocate from it without a further check of shape;
decoding raises `MalformedSpecError` and nothing else, whatever the bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from operator import index
from struct import Struct
from typing import Final

import numpy as np

from ..wire.codec import MalformedError

MAX_DIMENSIONS: Final = 32
MAX_BYTES: Final = 2**63 - 1
RAW_DTYPE: Final = "bytes"

_HEAD_BYTES: Final = 2
_DIMENSION_BYTES: Final = 8
# Peers choose the specs that are decoded, so the caches are small: a few MB at worst.
_CACHED_SPECS: Final = 1024

# name -> (code on the wire, bytes an element)
_FIXED_DTYPES: Final[dict[str, tuple[int, int]]] = {
    RAW_DTYPE: (0x00, 1),
    "bool": (0x01, 1),
    "int8": (0x02, 1),
    "int16": (0x03, 2),
    "int32": (0x04, 4),
    "int64": (0x05, 8),
    "uint8": (0x06, 1),
    "uint16": (0x07, 2),
    "uint32": (0x08, 4),
    "uint64": (0x09, 8),
    "float16": (0x0A, 2),
    "float32": (0x0B, 4),
    "float64": (0x0C, 8),
    "complex64": (0x0D, 8),
    "complex128": (0x0E, 16),
    "bfloat16": (0x10, 2),
    "float8_e4m3fn": (0x11, 1),
    "float8_e5m2": (0x12, 1),
    "float8_e4m3fnuz": (0x13, 1),
    "float8_e5m2fnuz": (0x14, 1),
    "float8_e4m3": (0x15, 1),
    "float8_e3m4": (0x16, 1),
    "float8_e8m0fnu": (0x17, 1),
}

# The C type `long double` has no one layout, so each layout has codes of its own
# and a host knows only its own: it refuses a foreign one instead of misreading it.
# (bits of the fraction, bytes an element) -> (code of the real, code of the complex)
_LONGDOUBLE_CODES: Final[dict[tuple[int, int], tuple[int, int]]] = {
    (63, 16): (0x20, 0x21),  # x87 extended, padded to 16 bytes
    (112, 16): (0x22, 0x23),  # IEEE binary128
    (105, 16): (0x24, 0x25),  # a pair of doubles
    (63, 12): (0x26, 0x27),  # x87 extended, padded to 12 bytes
    (52, 8): (0x28, 0x29),  # the same as float64
}


def _known_dtypes() -> dict[str, tuple[int, int]]:
    known = dict(_FIXED_DTYPES)
    size = np.dtype(np.longdouble).itemsize
    codes = _LONGDOUBLE_CODES.get((np.finfo(np.longdouble).nmant, size))
    if codes is not None:
        known["longdouble"] = (codes[0], size)
        known["clongdouble"] = (codes[1], 2 * size)
    return known


_DTYPES: Final = _known_dtypes()
_NAME_OF_CODE: Final = {code: name for name, (code, _) in _DTYPES.items()}
_LAYOUTS: Final = tuple(Struct(f"<BB{ndim}Q") for ndim in range(MAX_DIMENSIONS + 1))

DTYPE_NAMES: Final = frozenset(_DTYPES)
"""Canonical names of every dtype that this host can describe."""


class MalformedSpecError(MalformedError):
    """A dtype and shape, or their encoding, describe no possible tensor."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """The dtype and shape of one tensor, valid by construction.

    `dtype` is a canonical name from `DTYPE_NAMES`; `RAW_DTYPE` means bytes without
    a type and has exactly one dimension. `nbytes` and `itemsize` are in bytes.

    Raises:
        MalformedSpecError: unknown dtype, negative or too many dimensions, or
            more than `MAX_BYTES` bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    itemsize: int = field(init=False, repr=False, compare=False)
    nbytes: int = field(init=False, repr=False, compare=False)
    _encoding: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        known = _DTYPES.get(self.dtype)
        if known is None:
            raise MalformedSpecError(f"unknown dtype {self.dtype!r}")
        code, itemsize = known
        shape = tuple(map(index, self.shape))
        nbytes = _size_in_bytes(shape, itemsize)
        if self.dtype == RAW_DTYPE and len(shape) != 1:
            raise MalformedSpecError(f"raw bytes have one dimension, not {len(shape)}")
        # A frozen dataclass has no other way to set what it derives.
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "itemsize", itemsize)
        object.__setattr__(self, "nbytes", nbytes)
        encoding = _LAYOUTS[len(shape)].pack(code, len(shape), *shape)
        object.__setattr__(self, "_encoding", encoding)

    def encode(self) -> bytes:
        """Return this spec's form on the wire, 2 + 8 * ndim bytes."""
        return self._encoding

    @staticmethod
    def parse(encoding: bytes) -> TensorSpec:
        """The spec that `encoding` is, whole; as cheap as a look-up where it came before.

        Raises:
            MalformedSpecError: as `decode`, or something follows the spec.
        """
        return _parse(encoding)

    @staticmethod
    def decode(view: bytes | bytearray | memoryview, offset: int = 0) -> tuple[TensorSpec, int]:
        """Parse the spec that starts at `offset`; return it and the offset behind it.

        `view` holds single bytes (format ``B``). Equal encodings give one shared
        object, so a stream of small messages costs one look-up each.

        Raises:
            MalformedSpecError: truncated input, an unknown dtype code, more than
                `MAX_DIMENSIONS` dimensions, or more than `MAX_BYTES` bytes.
        """
        try:
            ndim = view[offset + 1]
        except IndexError:
            raise MalformedSpecError(f"no spec at offset {offset} of {len(view)} bytes") from None
        end = offset + _HEAD_BYTES + _DIMENSION_BYTES * ndim
        if end > len(view):
            raise MalformedSpecError(f"a spec of {ndim} dimensions ends behind the input")
        return _decode_exact(bytes(view[offset:end])), end


@lru_cache(maxsize=_CACHED_SPECS)
def _parse(encoding: bytes) -> TensorSpec:
    spec, end = TensorSpec.decode(encoding)
    if end != len(encoding):
        raise MalformedSpecError(f"{len(encoding) - end} bytes follow the spec")
    return spec


@lru_cache(maxsize=_CACHED_SPECS)
def interned(dtype: str, shape: tuple[int, ...]) -> TensorSpec:
    """Return a shared `TensorSpec`; equal arguments usually give the same object.

    Raises:
        MalformedSpecError: as for `TensorSpec`.
    """
    return TensorSpec(dtype, shape)


def _size_in_bytes(shape: tuple[int, ...], itemsize: int) -> int:
    """Return the size of a tensor, refusing what no allocator could describe.

    Zero-length dimensions are left out of the overflow check, as numpy does:
    strides are computed from the others even when the tensor is empty.
    """
    if len(shape) > MAX_DIMENSIONS:
        raise MalformedSpecError(f"{len(shape)} dimensions, at most {MAX_DIMENSIONS}")
    extent = itemsize
    empty = False
    for dimension in shape:
        if dimension < 0:
            raise MalformedSpecError(f"negative dimension {dimension}")
        if dimension == 0:
            empty = True
            continue
        extent *= dimension
        if extent > MAX_BYTES:
            raise MalformedSpecError(f"a tensor of more than {MAX_BYTES} bytes")
    return 0 if empty else extent


@lru_cache(maxsize=_CACHED_SPECS)
def _decode_exact(encoding: bytes) -> TensorSpec:
    """Parse an encoding whose length already agrees with its dimension count."""
    code, ndim = encoding[0], encoding[1]
    name = _NAME_OF_CODE.get(code)
    if name is None:
        raise MalformedSpecError(f"unknown dtype code {code:#04x}")
    if ndim > MAX_DIMENSIONS:
        raise MalformedSpecError(f"{ndim} dimensions, at most {MAX_DIMENSIONS}")
    _, _, *shape = _LAYOUTS[ndim].unpack(encoding)
    return interned(name, tuple(shape))
