"""A job of two ranks whose tensors lie on a GPU, which both may share."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from support.torch_ranks import check, main
from transport import UsageError
from transport.integrations.torch import register

register()  # where the package is only on the path
dist.init_process_group("sealed")
RANK, WORLD = dist.get_rank(), dist.get_world_size()
DEVICE = torch.device("cuda", RANK % torch.cuda.device_count())
torch.cuda.set_device(DEVICE)
OTHER = 1 - RANK


def equal(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.device == DEVICE
    assert torch.equal(found.cpu(), expected.cpu()), (found, expected)


def filled(value: float, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.full(shape, value, dtype=dtype, device=DEVICE)


@check
def reductions_of_every_kind() -> None:
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.float8_e4m3fn):
        for size in (1, 1000, 3_000_000):
            tensor = torch.full((size,), RANK + 1, device=DEVICE).to(dtype)
            dist.all_reduce(tensor)
            assert torch.equal(tensor.float(), filled(3.0, size)), (dtype, size)
    base = filled(0.0, 6, 8)
    strided = base.t()[1:7:2]
    strided.fill_(RANK + 1)
    dist.all_reduce(strided)
    assert float(base.sum()) == 3.0 * strided.numel()
    reduced = filled(RANK + 1.0, 5)
    dist.reduce(reduced, 1)
    equal(reduced, filled(3.0 if RANK == 1 else 1.0, 5))


@check
def more_than_the_ring_holds() -> None:
    tensor = torch.arange(40_000_000, device=DEVICE, dtype=torch.float32)
    dist.all_reduce(tensor)
    equal(tensor, 2 * torch.arange(40_000_000, dtype=torch.float32))
    works = [dist.all_reduce(filled(1.0, 3_000_000), async_op=True) for _ in range(20)]
    for work in works:
        work.wait()
        equal(work.result()[0], filled(2.0, 3_000_000))


@check
def exchanges() -> None:
    tensor = filled(float(RANK), 3, 4)
    dist.broadcast(tensor, 1)
    equal(tensor, filled(1.0, 3, 4))
    apart = [torch.empty(2, 3, device=DEVICE) for _ in range(WORLD)]
    dist.all_gather(apart, filled(float(RANK), 2, 3))
    for rank, each in enumerate(apart):
        equal(each, filled(float(rank), 2, 3))
    whole = torch.empty(2 * WORLD, device=DEVICE)
    dist.all_gather_into_tensor(whole, filled(float(RANK), 2))
    equal(whole, torch.tensor([0.0, 0.0, 1.0, 1.0]))
    part = torch.empty(2, device=DEVICE)
    dist.reduce_scatter_tensor(part, whole)
    equal(part, filled(2.0 * RANK, 2))
    out = torch.empty(WORLD, device=DEVICE)
    dist.all_to_all_single(out, filled(float(RANK), WORLD))
    equal(out, torch.arange(float(WORLD)))
    gathered = [torch.empty(1, device=DEVICE) for _ in range(WORLD)] if RANK == 0 else None
    dist.gather(filled(float(RANK), 1), gathered)
    dist.scatter(out[:1], [filled(5.0, 1), filled(6.0, 1)] if RANK == 0 else None)
    equal(out[:1], filled(5.0 + RANK, 1))
    work = dist.isend(filled(float(RANK), 70_000), OTHER)
    got = torch.empty(70_000, device=DEVICE)
    assert dist.recv(got) == OTHER
    work.wait()
    equal(got, filled(float(OTHER), 70_000))
    every: list[object] = [None] * WORLD
    dist.all_gather_object(every, RANK)
    assert every == [0, 1]
    dist.barrier()


@check
def the_order_of_streams_is_kept() -> None:
    """What is sent was computed by kernels still running at the call; what came is used at once."""
    for _ in range(5):
        tensor = filled(1.0, 2048, 2048)
        product = tensor @ tensor
        for _ in range(20):
            product = product @ tensor / 2048
        work = dist.all_reduce(product, async_op=True)
        busy = tensor @ tensor
        work.wait()
        equal(product * 2, filled(2 * 2 * 2048.0, 2048, 2048))
        del busy
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        tensor = filled(1.0, 1_000_000) * (RANK + 1)
        dist.all_reduce(tensor)
        doubled = tensor * 2
    side.synchronize()
    equal(doubled, filled(6.0, 1_000_000))


@check
def operations_on_both_devices_keep_their_order() -> None:
    for step in range(20):
        on_gpu = dist.all_reduce(first := filled(float(step), 100_000), async_op=True)
        on_cpu = dist.all_reduce(second := torch.full((7,), float(step)), async_op=True)
        on_cpu.wait()
        on_gpu.wait()
        assert float(second[0]) == 2 * step
        equal(first, filled(2.0 * step, 100_000))


@check
def futures_and_coalesced_calls() -> None:
    work = dist.all_reduce(filled(1.0, 500_000), async_op=True)
    chained = work.get_future().then(lambda future: future.value()[0] * 3)
    equal(chained.wait(), filled(6.0, 500_000))
    tensors = [filled(float(size), size) for size in (1, 10, 100_000)]
    dist.all_reduce_coalesced(tensors, async_op=True).wait()
    for each in tensors:
        equal(each, filled(2.0 * each.numel(), each.numel()))


@check
def training_is_as_on_the_cpu() -> None:
    weights = []
    for device in (DEVICE, torch.device("cpu")):
        torch.manual_seed(3)
        network = nn.Sequential(nn.Linear(32, 400), nn.Tanh(), nn.Linear(400, 8)).to(device)
        model = DistributedDataParallel(network, bucket_cap_mb=0.02)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for step in range(4):
            torch.manual_seed(10 * step + RANK)
            loss = model(torch.randn(16, 32).to(device)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        weights.append([each.detach().cpu() for each in network.parameters()])
    for on_gpu, on_cpu in zip(*weights, strict=True):
        torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-3, atol=1e-5)


@check
def sharded_training() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 8)).to(DEVICE)
    fully_shard(model, mesh=init_device_mesh("cuda", (WORLD,)))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    inputs = torch.ones(4, 32, device=DEVICE)
    losses = []
    for _ in range(4):
        loss = model(inputs).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert model[0].weight.full_tensor().shape == (64, 32)


@check
def errors_and_refusals() -> None:
    group = dist.new_group()
    work = dist.all_reduce(filled(1.0, 3 + RANK), group=group, async_op=True)
    with pytest.raises(UsageError, match=r"rank|calls"):
        work.wait()
    assert isinstance(work.exception(), UsageError)
    group = dist.new_group()
    work = dist.all_reduce(filled(1.0, 3 + RANK), group=group, async_op=True)
    with pytest.raises(RuntimeError, match="UsageError"):
        work.get_future().wait()
    graph = torch.cuda.CUDAGraph()
    tensor = filled(1.0, 3)
    with pytest.raises(UsageError, match="CUDA graph"), torch.cuda.graph(graph):
        dist.all_reduce(tensor)
    dist.barrier()


@check
def the_end() -> None:
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
