"""The tensors of the demonstration, the same in every process from one seed.

Their bytes are chosen so that a run of 16 bytes means something: no long runs
of zeros, which greetings and packet headers have too, and structure enough that
a wire carrying them in the clear would show an entropy far below 8 bits a byte.
"""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

PREFIX: Final = "sealfabric-demo"
SENDER: Final = f"{PREFIX}-sender"
RECEIVER: Final = f"{PREFIX}-receiver"
NAME_TAG: Final = int.from_bytes(b"nametags", "little")
TENSOR_TAG: Final = int.from_bytes(b"tensor-1", "little")

_CROWD: Final = 24  # small messages that accompany the large one under attack
_CROWD_ELEMENTS: Final = 3000


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedTensor:
    """A tensor and the name that travels ahead of it."""

    name: str
    array: Array


def small_tensors(seed: int) -> list[NamedTensor]:
    """One tensor of each kind that is worth showing: dtypes, shapes, layouts."""
    random = np.random.default_rng(seed)
    pairs: list[tuple[str, Array]] = [
        ("bool-mask", _thue_morse(12).reshape(64, 64)),
        ("int8-codes", _integers(random, np.int8, (3, 1000))),
        ("uint16-labels", _integers(random, np.uint16, (500, 7))),
        ("int32-indices", _integers(random, np.int32, (5000,))),
        ("int64-offsets", _integers(random, np.int64, (11, 13, 17))),
        ("float16-activations", random.standard_normal((128, 65)).astype(np.float16)),
        ("float32-bias", random.standard_normal(4097, dtype=np.float32)),
        ("float64-moments", random.standard_normal((2, 3, 4, 5, 6))),
        ("complex64-spectrum", _complex(random, 2048)),
        ("float64-scalar", np.array(np.pi + seed)),
        ("float32-empty", np.empty((0, 3), np.float32)),
        ("float32-strided", random.standard_normal((90, 110), dtype=np.float32)[::2, ::-3].T),
    ]
    bfloat16 = _bfloat16()
    if bfloat16 is not None:
        pairs.append(("bfloat16-gradients", random.standard_normal((64, 33)).astype(bfloat16)))
    return [NamedTensor(name=f"{PREFIX}/{name}", array=array) for name, array in pairs]


def large_tensor(nbytes: int) -> NamedTensor:
    """A float32 tensor of `nbytes`: smooth and quantised, as weights often are."""
    period = np.arange(1 << 20, dtype=np.float32)
    wave = 1.5 + np.round(np.sin(period * np.float32(0.0123)) * 2047.0) / 4096.0
    array = np.resize(wave.astype(np.float32), nbytes // 4)
    array[:: 1 << 12] = np.arange(len(array[:: 1 << 12]), dtype=np.float32) + 3.0
    return NamedTensor(name=f"{PREFIX}/float32-weights", array=array)


def attacked_tensors(large: NamedTensor, seed: int) -> list[NamedTensor]:
    """What is sent under attack: much of the large tensor again, then many small ones."""
    again = large.array if large.array.nbytes <= 1 << 24 else large.array[: len(large.array) // 2]
    random = np.random.default_rng(seed + 1)
    crowd = [
        NamedTensor(
            name=f"{PREFIX}/crowd-{number:02}",
            array=random.standard_normal(_CROWD_ELEMENTS, dtype=np.float32),
        )
        for number in range(_CROWD)
    ]
    return [NamedTensor(name=f"{PREFIX}/float32-again", array=again), *crowd]


def raw_bytes(array: Array) -> npt.NDArray[np.uint8]:
    """The bytes of `array` in C order; a copy only where its layout demands one."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def digest(array: Array) -> str:
    """SHA-256 over dtype, shape and bytes, in hexadecimal."""
    state = hashlib.sha256(f"{array.dtype.name} {array.shape} ".encode())
    state.update(raw_bytes(array).data)
    return state.hexdigest()


def _thue_morse(doublings: int) -> npt.NDArray[np.bool_]:
    """Truth values of which no three in a row are alike."""
    values = np.zeros(1, np.bool_)
    for _ in range(doublings):
        values = np.concatenate([values, ~values])
    return values


def _integers(
    random: np.random.Generator, dtype: type[np.integer[Any]], shape: tuple[int, ...]
) -> Array:
    limits = np.iinfo(dtype)
    return random.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


def _complex(random: np.random.Generator, size: int) -> Array:
    parts = random.standard_normal((2, size), dtype=np.float32)
    numbers: Array = (parts[0] + 1j * parts[1]).astype(np.complex64)
    return numbers


def _bfloat16() -> np.dtype[Any] | None:
    try:
        dtype: np.dtype[Any] = np.dtype(importlib.import_module("ml_dtypes").bfloat16)
    except ImportError:
        return None
    return dtype
