"""Views of torch tensors: every dtype in every layout, and what is refused."""

from __future__ import annotations

import pytest

from transport.errors import UsageError
from transport.tensor.spec import DTYPE_NAMES, TensorSpec
from transport.tensor.views import check_fits, destination_view, source_view

torch = pytest.importorskip("torch", reason="torch is not installed")

DTYPES = sorted(name for name in DTYPE_NAMES if isinstance(getattr(torch, name, None), torch.dtype))


def numbers(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    count = torch.Size(shape).numel()
    return torch.arange(1, count + 1).to(torch.float32).to(getattr(torch, name)).reshape(shape)


def raw(tensor: torch.Tensor) -> bytes:
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes()


LAYOUTS = {
    "contiguous": lambda name: numbers(name, (3, 4)),
    "zero-dimensional": lambda name: numbers(name, ()),
    "empty": lambda name: numbers(name, (0, 3)),
    "transposed": lambda name: numbers(name, (3, 4)).T,
    "strided": lambda name: numbers(name, (3, 8))[:, ::2],
    "offset": lambda name: numbers(name, (7,))[2:],
}


def test_the_dtypes_of_torch_are_covered():
    assert {"bfloat16", "float8_e4m3fn", "float8_e5m2", "complex64", "bool"} <= set(DTYPES)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", DTYPES)
def test_any_tensor_goes_out_and_comes_in(name, layout):
    original = LAYOUTS[layout](name)
    source = source_view(original)
    assert source.spec == TensorSpec(name, tuple(original.shape))
    assert type(source.spec.shape) is tuple
    assert (source.data.format, source.data.ndim) == ("B", 1)
    assert bytes(source.data) == raw(original)

    target = torch.zeros_like(LAYOUTS[layout]("uint8"), dtype=original.dtype)
    if layout in ("transposed", "strided"):
        wider = torch.zeros(4, 8, dtype=original.dtype)
        target = wider.T[::2] if layout == "transposed" else wider[:3, ::2]
        target = target[: original.shape[0], : original.shape[1]]
    destination = destination_view(target)
    check_fits(destination, source.spec)
    assert destination.owner is target
    destination.data[:] = source.data
    destination.finish()
    assert raw(target) == raw(original)


def test_a_contiguous_tensor_is_not_copied():
    tensor = numbers("bfloat16", (4,))
    source = source_view(tensor)
    destination = destination_view(tensor)
    destination.data[:2] = raw(torch.tensor(9, dtype=torch.bfloat16))
    assert tensor[0] == 9
    assert bytes(source.data) == raw(tensor)


def test_lazy_conjugation_and_negation_are_resolved():
    tensor = torch.tensor([1 + 2j, 3 - 4j])
    assert bytes(source_view(tensor.conj()).data) == raw(torch.tensor([1 - 2j, 3 + 4j]))
    negated = tensor.conj().imag
    assert negated.is_neg()
    assert bytes(source_view(negated).data) == raw(torch.tensor([-2.0, 4.0]))

    conjugated = torch.zeros(2, dtype=torch.complex64).conj()
    destination = destination_view(conjugated)
    destination.data[:] = raw(tensor)
    destination.finish()
    assert torch.equal(conjugated.resolve_conj(), tensor)


def test_a_trainable_leaf_is_received_into_in_place():
    parameter = torch.nn.Parameter(torch.zeros(3))
    destination = destination_view(parameter)
    destination.data[:] = raw(torch.tensor([1.0, 2.0, 3.0]))
    destination.finish()
    assert parameter.tolist() == [1.0, 2.0, 3.0]
    assert parameter.requires_grad

    strided = torch.zeros(3, 2, requires_grad=True)
    destination = destination_view(strided.T)
    destination.data[:] = raw(numbers("float32", (2, 3)))
    destination.finish()
    assert strided.T.tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    assert bytes(source_view(strided).data) == raw(strided)


def test_a_computed_tensor_can_be_sent():
    computed = torch.ones(3, requires_grad=True) * 2
    assert bytes(source_view(computed).data) == raw(torch.full((3,), 2.0))


REFUSED = {
    "sparse": (lambda: torch.eye(2).to_sparse(), "layout torch.sparse_coo"),
    "meta": (lambda: torch.ones(2, device="meta"), "device meta"),
    "complex32": (lambda: torch.zeros(2, dtype=torch.complex32), "complex32 cannot travel"),
    "float4": (lambda: torch.zeros(2, dtype=torch.float4_e2m1fn_x2), "float4_e2m1fn_x2 cannot"),
}


@pytest.mark.filterwarnings("ignore")  # torch warns about sparse layouts and half complex
@pytest.mark.parametrize("case", REFUSED)
def test_tensors_without_plain_bytes_are_refused(case):
    make, text = REFUSED[case]
    for view in (source_view, destination_view):
        with pytest.raises(UsageError, match=text):
            view(make())


@pytest.mark.filterwarnings("ignore")  # quantized tensors are on their way out of torch
def test_a_quantized_tensor_is_refused():
    quantized = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8)
    with pytest.raises(UsageError, match="quantized"):
        source_view(quantized)


def test_a_fake_tensor_is_refused():
    fake_tensor = pytest.importorskip("torch._subclasses.fake_tensor")
    with fake_tensor.FakeTensorMode():
        fake = torch.ones(3)
    with pytest.raises(UsageError):
        source_view(fake)


def test_a_broadcast_target_is_refused():
    with pytest.raises(UsageError, match="share one place"):
        destination_view(torch.zeros(1).expand(4))
    assert bytes(source_view(torch.ones(1).expand(4)).data) == raw(torch.ones(4))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_device_tensor_is_refused():
    with pytest.raises(UsageError, match=r"device cuda.*not supported"):
        source_view(torch.ones(2, device="cuda"))


def test_a_view_leaves_the_storage_as_resizable_as_it_was():
    """FSDP frees and regrows storages all the time."""
    tensor = torch.ones(4)
    view = source_view(tensor)
    assert bytes(view.data) == raw(torch.ones(4))
    del view
    destination_view(tensor)
    tensor.untyped_storage().resize_(0)
    assert tensor.untyped_storage().nbytes() == 0


def test_a_view_keeps_its_tensor_alive():
    data = source_view(torch.full((1000,), 7, dtype=torch.uint8)).data
    torch.zeros(1000, dtype=torch.uint8)  # would take the memory, were it free
    assert bytes(data) == bytes([7]) * 1000
