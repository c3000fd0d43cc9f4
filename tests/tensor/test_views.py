"""Views of numpy arrays and buffers: every dtype in every layout, out and in."""

from __future__ import annotations

import array
import ctypes
import gc
import mmap
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.errors import LimitError, TruncatedError, UsageError
from transport.tensor.spec import DTYPE_NAMES, RAW_DTYPE, TensorSpec
from transport.tensor.views import check_fits, destination_view, new_array, source_view

ml_dtypes = pytest.importorskip("ml_dtypes")

DTYPES = sorted(DTYPE_NAMES - {RAW_DTYPE})
NUMPY_VERSION = tuple(map(int, np.__version__.split(".")[:2]))


def dtype_of(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name, None) or name)


def numbers(name: str, shape: tuple[int, ...]) -> np.ndarray:
    count = int(np.prod(shape))
    values = np.arange(1, count + 1) % 2 if name == "bool" else np.arange(1, count + 1)
    return without_padding(values.astype(dtype_of(name))).reshape(shape)


def without_padding(line: np.ndarray) -> np.ndarray:
    """The same numbers, where the bytes that an x87 long double leaves unused are zero."""
    long_doubles = (np.longdouble, np.clongdouble)
    if line.dtype.type in long_doubles and np.finfo(np.longdouble).nmant == 63:
        line.view(np.uint8).reshape(-1, np.dtype(np.longdouble).itemsize)[:, 10:] = 0
    return line


LAYOUTS = {
    "contiguous": lambda name: numbers(name, (3, 4)),
    "zero-dimensional": lambda name: numbers(name, ()),
    "empty": lambda name: numbers(name, (0, 3)),
    "fortran": lambda name: np.asfortranarray(numbers(name, (3, 4))),
    "strided": lambda name: numbers(name, (3, 8))[:, ::2],
    "strided-line": lambda name: numbers(name, (9,))[::3],
    "reversed": lambda name: numbers(name, (5,))[::-1],
    "inner-slice": lambda name: numbers(name, (2, 3, 4))[:, 1],
    "offset": lambda name: numbers(name, (7,))[2:],
}


def unlike(like: np.ndarray) -> np.ndarray:
    """An array with the dtype, shape and strides of `like`, but every byte 0xAA."""
    reach = [
        stride * (size - 1) for stride, size in zip(like.strides, like.shape, strict=True) if size
    ]
    first = -sum(step for step in reach if step < 0)
    backing = np.full(1024, 0xAA, np.uint8)
    return np.ndarray(like.shape, like.dtype, backing.data, first, like.strides)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", DTYPES)
def test_any_tensor_goes_out_and_comes_in(name, layout):
    original = LAYOUTS[layout](name)
    source = source_view(original)
    assert source.spec == TensorSpec(name, original.shape)
    assert (source.data.format, source.data.ndim, source.data.c_contiguous) == ("B", 1, True)
    assert source.data.nbytes == source.spec.nbytes
    assert bytes(source.data) == original.tobytes()

    target = unlike(original)
    destination = destination_view(target)
    check_fits(destination, source.spec)
    assert destination.spec == source.spec
    assert destination.owner is target
    assert not destination.raw
    destination.data[:] = source.data
    destination.finish()
    assert target.tobytes() == original.tobytes()

    fresh, memory = new_array(source.spec)
    memory[:] = source.data
    assert (fresh.dtype, fresh.shape) == (original.dtype, original.shape)
    assert fresh.tobytes() == original.tobytes()


@pytest.mark.parametrize("layout", ["contiguous", "zero-dimensional", "empty", "fortran"])
@pytest.mark.parametrize("name", ["int16", "uint64", "float16", "float32", "complex128"])
def test_big_endian_tensors_travel_little_endian(name, layout):
    little = LAYOUTS[layout](name)
    big = little.astype(little.dtype.newbyteorder(">"), order="K")
    source = source_view(big)
    assert source.spec == TensorSpec(name, little.shape)
    assert bytes(source.data) == little.tobytes()

    target = np.zeros_like(big)
    destination = destination_view(target)
    destination.data[:] = source.data
    destination.finish()
    assert np.array_equal(target, little)


def test_a_contiguous_tensor_is_not_copied():
    tensor = numbers("float32", (3, 4))
    source = source_view(tensor)
    tensor[1, 2] = 99.0
    assert bytes(source.data) == tensor.tobytes()

    destination = destination_view(tensor)
    destination.data[:4] = np.float32(-5).tobytes()
    assert tensor[0, 0] == -5.0
    assert destination.copy_back is None


@pytest.mark.skipif(np.finfo(np.longdouble).nmant != 63, reason="no x87 long double here")
@pytest.mark.parametrize("dtype", [np.longdouble, np.clongdouble])
def test_the_padding_of_a_long_double_does_not_leave_the_process(dtype):
    stale = np.full(3 * np.dtype(dtype).itemsize, 0x5E, np.uint8)
    tensor = stale.view(dtype)
    sent = bytes(source_view(tensor).data)
    assert sent == without_padding(tensor.copy()).tobytes()
    assert stale.tobytes() == b"\x5e" * stale.size


def test_a_strided_target_changes_only_when_finished_and_only_in_its_own_places():
    whole = np.zeros((4, 4), np.int32)
    destination = destination_view(whole[:, ::2])
    destination.data[:] = np.arange(1, 9, dtype=np.int32).tobytes()
    assert not whole.any()
    destination.finish()
    assert whole[:, ::2].ravel().tolist() == list(range(1, 9))
    assert not whole[:, 1::2].any()


def test_a_view_keeps_its_memory_alive():
    data = source_view(numbers("int64", (1000,))[::2]).data
    gc.collect()
    assert np.frombuffer(data, np.int64).tolist() == list(range(1, 1001, 2))


def test_a_read_only_array_can_be_sent_but_not_received_into():
    tensor = numbers("float64", (3,))
    tensor.flags.writeable = False
    assert source_view(tensor).data.readonly
    with pytest.raises(UsageError, match="read-only ndarray"):
        destination_view(tensor)


@pytest.mark.parametrize("name", DTYPES)
def test_numpy_scalars_are_tensors_without_dimensions(name):
    original = numbers(name, (1,))
    scalar = original[0]
    source = source_view(scalar)
    assert source.spec == TensorSpec(name, ())
    assert bytes(source.data) == original.tobytes()
    with pytest.raises(UsageError, match="scalar"):
        destination_view(scalar)


@pytest.mark.parametrize(
    ("tensor", "text"),
    [
        pytest.param(np.array([object()]), "object", id="object"),
        pytest.param(np.zeros(2, [("a", "i4")]), r"\('a', '<i4'\)", id="structured"),
        pytest.param(np.zeros(2, "V4"), "V4", id="void"),
        pytest.param(np.array(["ab"]), "<U2", id="str"),
        pytest.param(np.array([b"ab"]), "S2", id="bytes"),
        pytest.param(np.zeros(2, "M8[s]"), r"datetime64\[s\]", id="datetime"),
        pytest.param(np.zeros(2, "m8[s]"), r"timedelta64\[s\]", id="timedelta"),
        pytest.param(np.zeros(2, ml_dtypes.int4), "int4", id="int4"),
        pytest.param(np.zeros(2, ml_dtypes.float8_e4m3b11fnuz), "b11fnuz", id="another-float8"),
    ],
)
def test_other_dtypes_are_refused_by_name(tensor, text):
    for view in (source_view, destination_view):
        with pytest.raises(UsageError, match=f"dtype .*{text}.* cannot travel"):
            view(tensor)


@pytest.mark.skipif(NUMPY_VERSION < (2, 0), reason="numpy 1 has no arrays of 33 dimensions")
def test_the_limit_on_dimensions_is_the_callers_error():
    with pytest.raises(UsageError, match="33 dimensions"):
        source_view(np.zeros((1,) * 33))


def test_array_subclasses_are_seen_as_their_memory(tmp_path):
    mapped = np.memmap(tmp_path / "weights", np.float32, "w+", shape=(4,))
    mapped[:] = [1, 2, 3, 4]
    assert bytes(source_view(mapped).data) == mapped.tobytes()
    destination = destination_view(mapped)
    destination.data[:4] = np.float32(7).tobytes()
    assert mapped[0] == 7.0


def test_a_masked_array_is_refused():
    with pytest.raises(UsageError, match="mask"):
        source_view(np.ma.masked_array([1, 2], [True, False]))


@pytest.mark.parametrize(
    "buffer",
    [
        pytest.param(b"\x01\x02\x03\x04", id="bytes"),
        pytest.param(bytearray(b"\x01\x02\x03\x04"), id="bytearray"),
        pytest.param(memoryview(b"\x01\x02\x03\x04"), id="memoryview"),
        pytest.param(memoryview(b"\x01\x02\x03\x04").cast("c"), id="memoryview-of-characters"),
        pytest.param(memoryview(b"\x01\x02\x03\x04").cast("B", (2, 2)), id="memoryview-2d"),
        pytest.param(memoryview(b"\x01_\x02_\x03_\x04_")[::2], id="memoryview-strided"),
        pytest.param(array.array("B", [1, 2, 3, 4]), id="array"),
    ],
)
def test_byte_buffers_are_raw(buffer):
    source = source_view(buffer)
    assert source.spec == TensorSpec(RAW_DTYPE, (4,))
    assert (source.data.format, source.data.ndim) == ("B", 1)
    assert bytes(source.data) == b"\x01\x02\x03\x04"


@pytest.mark.parametrize("empty", [b"", bytearray(), memoryview(b"").cast("c"), array.array("B")])
def test_an_empty_byte_buffer_is_an_empty_message(empty):
    source = source_view(empty)
    assert (source.spec, source.data.nbytes) == (TensorSpec(RAW_DTYPE, (0,)), 0)


def test_typed_buffers_are_tensors():
    floats = array.array("d", [1.0, 2.0])
    assert source_view(floats).spec == TensorSpec("float64", (2,))
    assert bytes(source_view(floats).data) == floats.tobytes()
    grid = (ctypes.c_int32 * 3 * 2)()
    destination = destination_view(grid)
    assert destination.spec == TensorSpec("int32", (2, 3))
    destination.data[:] = np.arange(6, dtype=np.int32).tobytes()
    assert [list(row) for row in grid] == [[0, 1, 2], [3, 4, 5]]


def test_raw_buffers_take_what_is_not_larger():
    target = bytearray(b"........")
    destination = destination_view(target)
    assert destination.raw
    assert (destination.spec, destination.nbytes) == (TensorSpec(RAW_DTYPE, (8,)), 8)
    check_fits(destination, TensorSpec("float32", (2,)))
    check_fits(destination, TensorSpec(RAW_DTYPE, (3,)))
    with pytest.raises(TruncatedError, match=r"12 bytes \(float32\[3\]\).*only 8"):
        check_fits(destination, TensorSpec("float32", (3,)))
    destination.data[:3] = b"abc"
    destination.finish()
    assert target == b"abc....."


def test_mapped_memory_is_a_raw_buffer():
    with mmap.mmap(-1, 16) as mapped:
        with memoryview(mapped) as window:
            destination = destination_view(window)
            destination.data[:2] = b"ok"
            destination.data.release()
        assert mapped[:2] == b"ok"


@pytest.mark.parametrize(
    ("target", "text"),
    [
        pytest.param(b"abc", "read-only bytes", id="bytes"),
        pytest.param(memoryview(b"abc"), "read-only memoryview", id="read-only-memoryview"),
        pytest.param(memoryview(bytearray(8))[::2], "strided", id="strided-bytes"),
        pytest.param([1, 2], "list is no tensor", id="list"),
        pytest.param(1.5, "float is no tensor", id="float"),
        pytest.param("text", "str is no tensor", id="str"),
        pytest.param(None, "NoneType is no tensor", id="none"),
    ],
)
def test_what_cannot_receive_says_so(target, text):
    with pytest.raises(UsageError, match=text):
        destination_view(target)


@pytest.mark.parametrize("tensor", [[1, 2], 1.5, "text", None, {}])
def test_what_is_no_tensor_cannot_be_sent(tensor):
    with pytest.raises(UsageError, match="is no tensor"):
        source_view(tensor)


class WithInterface:
    """An object that offers its memory through `__array_interface__` only."""

    def __init__(self, backing):
        self._backing = backing

    @property
    def __array_interface__(self):
        return self._backing.__array_interface__


class WithDlpack:
    """An object that offers its memory through DLPack only, as from some device."""

    def __init__(self, backing, device=1):
        self._backing = backing
        self._device = device

    def __dlpack_device__(self):
        return (self._device, 0)

    def __dlpack__(self, **options):
        return self._backing.__dlpack__(**options)


WRITABLE_DLPACK = pytest.mark.skipif(
    NUMPY_VERSION < (2, 1), reason="DLPack arrays are read-only before numpy 2.1"
)


@pytest.mark.parametrize("wrap", [WithInterface, pytest.param(WithDlpack, marks=WRITABLE_DLPACK)])
def test_protocols_share_the_memory_behind_them(wrap):
    backing = numbers("float32", (2, 3))
    wrapped = wrap(backing)
    assert source_view(wrapped).spec == TensorSpec("float32", (2, 3))
    assert bytes(source_view(wrapped).data) == backing.tobytes()
    destination = destination_view(wrapped)
    destination.data[:] = bytes(24)
    destination.finish()
    assert not backing.any()


def test_device_memory_is_refused():
    for view in (source_view, destination_view):
        with pytest.raises(UsageError, match=r"DLPack device 2; device tensors are not supported"):
            view(WithDlpack(numbers("float32", (2,)), device=2))


def test_the_dtype_and_shape_of_a_typed_target_must_agree():
    destination = destination_view(np.zeros((2, 3), np.float32))
    check_fits(destination, TensorSpec("float32", (2, 3)))
    for spec in (
        TensorSpec("float32", (3, 2)),
        TensorSpec("float32", (6,)),
        TensorSpec("float32", (2, 2)),
        TensorSpec("int32", (2, 3)),
        TensorSpec(RAW_DTYPE, (24,)),
    ):
        with pytest.raises(UsageError) as refused:
            check_fits(destination, spec)
        assert f"{spec.dtype}{list(spec.shape)}" in str(refused.value)
        assert "float32[2, 3]" in str(refused.value)
    with pytest.raises(TruncatedError):
        check_fits(destination, TensorSpec("float64", (2, 3)))


def test_bytes_fit_a_line_of_uint8():
    destination = destination_view(np.zeros(4, np.uint8))
    check_fits(destination, TensorSpec(RAW_DTYPE, (4,)))
    with pytest.raises(UsageError):
        check_fits(destination, TensorSpec(RAW_DTYPE, (3,)))
    fresh, memory = new_array(TensorSpec(RAW_DTYPE, (4,)))
    assert (fresh.dtype, memory.nbytes) == (np.uint8, 4)


def test_a_new_array_needs_ml_dtypes_for_its_dtypes(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(UsageError, match=r"install ml_dtypes .* out="):
        new_array(TensorSpec("bfloat16", (2,)))


def test_an_array_without_room_is_a_limit():
    with pytest.raises(LimitError, match="no memory"):
        new_array(TensorSpec("uint8", (2**62,)))


@given(st.data())
def test_any_slicing_of_an_array_travels(data):
    base = np.arange(4 * 5 * 6, dtype=np.int32).reshape(4, 5, 6)
    axes = data.draw(st.permutations(range(3)))
    slices = tuple(data.draw(st.slices(base.shape[axis])) for axis in axes)
    view = base.transpose(axes)[slices]
    source = source_view(view)
    assert bytes(source.data) == view.tobytes()

    expected = view.copy()
    other = np.zeros_like(base).transpose(axes)[slices]
    destination = destination_view(other)
    check_fits(destination, source.spec)
    destination.data[:] = source.data
    destination.finish()
    assert np.array_equal(other, expected)
