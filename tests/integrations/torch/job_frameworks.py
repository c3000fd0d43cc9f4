"""A job of two ranks that trains, shards and saves as users of torch do, over `sealed`.

Results are compared with those over Gloo in the same processes, or with one process alone.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from support.torch_ranks import check, main

dist.init_process_group("sealed")
RANK, WORLD = dist.get_rank(), dist.get_world_size()
GLOO = dist.new_group(backend="gloo")


def mlp() -> nn.Sequential:
    torch.manual_seed(7)
    return nn.Sequential(
        nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)
    )


def batch(step: int, rank: int = RANK) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 * step + rank)
    return torch.randn(8, 16, generator=generator), torch.randn(8, 4, generator=generator)


def train(
    model: Callable[[torch.Tensor], torch.Tensor], optimizer: torch.optim.Optimizer, steps: int = 3
) -> list[float]:
    losses = []
    for step in range(steps):
        inputs, targets = batch(step)
        loss = nn.functional.mse_loss(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    return losses


def train_alone(steps: int = 3) -> dict[str, torch.Tensor]:
    """The same training in one process, with the batches of all ranks."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for step in range(steps):
        inputs, targets = (
            torch.cat(each)
            for each in zip(*(batch(step, rank) for rank in range(WORLD)), strict=True)
        )
        loss = nn.functional.mse_loss(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.state_dict()


def close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, each in expected.items():
        torch.testing.assert_close(found[name], each)


def mesh(*shape: int, **options: object) -> DeviceMesh:
    return init_device_mesh("cpu", shape or (WORLD,), **options)


@check
def ddp_gives_the_bits_that_gloo_gives() -> None:
    results = []
    for group in (dist.group.WORLD, GLOO):
        model = DistributedDataParallel(mlp(), process_group=group, bucket_cap_mb=0.01)
        losses = train(model, torch.optim.SGD(model.parameters(), 0.1))
        with model.no_sync():
            model(batch(9)[0]).sum().backward()
        results.append((losses, copy.deepcopy(model.module.state_dict())))
    (losses, weights), (gloo_losses, gloo_weights) = results
    assert losses == gloo_losses
    assert all(torch.equal(weights[name], gloo_weights[name]) for name in weights)
    close(weights, train_alone())


@check
def ddp_with_hooks_buffers_and_uneven_inputs() -> None:
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

    model = DistributedDataParallel(mlp())
    model.register_comm_hook(None, default_hooks.fp16_compress_hook)
    train(model, torch.optim.SGD(model.parameters(), 0.1))
    model = DistributedDataParallel(mlp())
    state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=1, start_powerSGD_iter=2)
    model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    train(model, torch.optim.SGD(model.parameters(), 0.1), steps=4)
    normal = nn.SyncBatchNorm.convert_sync_batchnorm(
        nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8))
    )
    model = DistributedDataParallel(nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8)))
    assert any(isinstance(each, nn.SyncBatchNorm) for each in normal.modules())
    with model.join():
        for step in range(2 + RANK):
            model(batch(step)[0]).sum().backward()


@check
def fsdp_of_the_first_kind() -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = FullyShardedDataParallel(mlp(), device_id=torch.device("cpu"))
    train(model, torch.optim.SGD(model.parameters(), 0.1))
    with FullyShardedDataParallel.summon_full_params(model):
        weights = {
            name.replace("_fsdp_wrapped_module.", ""): each.clone()
            for name, each in model.named_parameters()
        }
    close(weights, train_alone())


@check
def fsdp_of_the_second_kind_saved_and_loaded() -> None:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.fsdp import fully_shard

    def sharded() -> nn.Sequential:
        model = mlp()
        for layer in (model[0], model[2]):
            fully_shard(layer, mesh=mesh())
        return fully_shard(model, mesh=mesh())

    model = sharded()
    train(model, torch.optim.SGD(model.parameters(), 0.1))
    expected = train_alone()
    close({name: each.full_tensor() for name, each in model.state_dict().items()}, expected)
    folder = Path(os.environ["JOB_FOLDER"]) / "checkpoint"
    dcp.save(model.state_dict(), checkpoint_id=folder)
    again = sharded()
    state = again.state_dict()
    dcp.load(state, checkpoint_id=folder)
    close({name: each.full_tensor() for name, each in state.items()}, expected)


@check
def hybrid_sharding_where_only_the_site_is_sealed() -> None:
    from torch.distributed.fsdp import fully_shard

    both = init_device_mesh(
        "cpu", (WORLD, 1), mesh_dim_names=("site", "shard"), backend_override={"shard": "gloo"}
    )
    assert dist.get_backend(both["site"].get_group()) == "sealed"
    assert dist.get_backend(both["shard"].get_group()) == "gloo"
    model = fully_shard(mlp(), mesh=both)
    train(model, torch.optim.SGD(model.parameters(), 0.1))
    close({name: each.full_tensor() for name, each in model.state_dict().items()}, train_alone())


@check
def tensor_parallelism_and_dtensors() -> None:
    from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    model, alone = mlp(), mlp()
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
    parallelize_module(model, mesh(), plan)
    inputs = batch(0, 0)[0]
    torch.testing.assert_close(model(inputs), alone(inputs))
    model(inputs).sum().backward()
    alone(inputs).sum().backward()
    torch.testing.assert_close(model[0].weight.grad.full_tensor(), alone[0].weight.grad)
    whole = torch.arange(24.0).view(4, 6)
    rows = distribute_tensor(whole, mesh(), [Shard(0)])
    assert isinstance(rows, DTensor)
    columns = rows.redistribute(mesh(), [Shard(1)])
    assert columns.to_local().shape == (4, 6 // WORLD)
    assert torch.equal(columns.redistribute(mesh(), [Replicate()]).to_local(), whole)
    assert torch.equal((rows @ rows.T).full_tensor(), whole @ whole.T)
    uneven = distribute_tensor(torch.arange(5.0), mesh(), [Shard(0)])
    assert torch.equal(uneven.full_tensor(), torch.arange(5.0))


@check
def a_pipeline() -> None:
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

    layers = mlp()
    part = layers[:2] if RANK == 0 else layers[2:]
    inputs, targets = batch(0, 0)
    for kind in (ScheduleGPipe, Schedule1F1B):
        stage = PipelineStage(part, RANK, WORLD, torch.device("cpu"))
        schedule = kind(stage, n_microbatches=2, loss_fn=nn.functional.mse_loss)
        if RANK == 0:
            schedule.step(inputs)
        else:
            losses: list[torch.Tensor] = []
            output = schedule.step(target=targets, losses=losses)
            alone = mlp()(inputs)
            torch.testing.assert_close(output, alone)
            expected = nn.functional.mse_loss(alone, targets)
            torch.testing.assert_close(torch.stack(losses).mean(), expected)
    assert all(parameter.grad is not None for parameter in part.parameters())


@check
def an_optimizer_without_redundancy() -> None:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model = DistributedDataParallel(mlp())
    optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.SGD, lr=0.1)
    train(model, optimizer)
    close(model.module.state_dict(), train_alone())
    optimizer.consolidate_state_dict(to=0)
    if RANK == 0:
        assert optimizer.state_dict()["param_groups"]


@check
def accelerate_trains_and_gathers() -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == WORLD
    model = mlp()
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 0.1))
    assert isinstance(model, DistributedDataParallel)
    assert dist.get_backend(model.process_group) == "sealed"
    for step in range(3):
        inputs, targets = batch(step)
        loss = nn.functional.mse_loss(model(inputs), targets)
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
    close(accelerator.unwrap_model(model).state_dict(), train_alone())
    gathered = accelerator.gather(torch.tensor([float(RANK)]))
    assert torch.equal(gathered, torch.arange(float(WORLD)))
    assert torch.equal(accelerator.reduce(torch.ones(2), "sum"), torch.full((2,), float(WORLD)))


@check
def the_end() -> None:
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
