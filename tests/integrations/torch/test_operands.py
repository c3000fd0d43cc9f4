"""torch tensors as flat memory: in place where that is possible, else packed and stored back."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from transport.errors import UsageError  # noqa: E402  # after the check for torch
from transport.integrations.torch.operands import (  # noqa: E402
    Target,
    Targets,
    checked,
    joined,
    packed,
)


def shares_memory(one, other):
    return one.data_ptr() == other.data_ptr()


def test_a_contiguous_tensor_is_used_in_place():
    tensor = torch.arange(6.0).view(2, 3)
    assert shares_memory(packed(tensor), tensor)
    target = Target(tensor)
    assert shares_memory(target.flat, tensor)
    assert target.store is None


def test_any_other_is_packed_and_stored_back():
    tensor = torch.arange(6.0).view(2, 3).t()
    assert packed(tensor).tolist() == [0, 3, 1, 4, 2, 5]
    target = Target(tensor)
    target.flat.copy_(torch.arange(6.0))
    target.store()
    assert tensor.tolist() == [[0, 1], [2, 3], [4, 5]]
    conjugate = torch.tensor([1 + 2j]).conj()
    assert packed(conjugate).tolist() == [1 - 2j]


def test_chunks_of_one_tensor_are_one_piece_of_memory():
    whole = torch.arange(12.0).view(6, 2)
    chunks = list(whole.chunk(3))
    assert shares_memory(joined(chunks), whole)
    assert joined(chunks).tolist() == list(range(12))
    targets = Targets(chunks)
    assert shares_memory(targets.flat, whole)
    assert targets.store is None
    assert targets.sizes == [4, 4, 4]


@pytest.mark.parametrize(
    "tensors",
    [
        [torch.zeros(2), torch.zeros(3)],
        list(torch.zeros(4, 2).chunk(2))[::-1],
        list(torch.zeros(4, 3).chunk(3, dim=1)),
        [torch.zeros(8)[:2], torch.zeros(8)[2:4]],
    ],
    ids=["apart", "in another order", "strided", "of two storages"],
)
def test_tensors_that_lie_apart_are_packed_and_stored_back(tensors):
    for number, each in enumerate(tensors):
        each.fill_(number)
    expected = [number for number, each in enumerate(tensors) for _ in range(each.numel())]
    assert joined(tensors).tolist() == expected
    targets = Targets(tensors)
    targets.flat.copy_(torch.arange(float(sum(targets.sizes))))
    targets.store()
    stored = torch.cat([each.reshape(-1) for each in tensors])
    assert stored.tolist() == list(range(len(stored)))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: checked([1.0]), "got list"),
        (lambda: checked(torch.eye(2).to_sparse()), "sparse_coo"),
        (lambda: Target(torch.zeros(1).expand(3)), "share one place"),
        (lambda: Targets([torch.zeros(1).expand(3)]), "share one place"),
        (lambda: joined([torch.zeros(1), torch.zeros(1).int()]), "torch.int32"),
        (lambda: joined([]), "empty"),
    ],
)
def test_what_has_no_such_memory_is_refused(call, words):
    with pytest.raises(UsageError, match=words) as caught:
        call()
    assert isinstance(caught.value, torch.distributed.DistBackendError)
