"""Fully sharded training (FSDP2): every rank holds a part of each weight.

    torchrun --nproc-per-node 2 examples/train_fsdp.py

Parameters are gathered before each layer and gradients scattered behind it, all over
sealed links. Needs SEALFABRIC_SECRET_FILE, and scikit-learn for its digits.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard


def main() -> None:
    """Shard a network over all ranks and train it on a part of the digits each."""
    dist.init_process_group("sealed")
    rank, world = dist.get_rank(), dist.get_world_size()
    mesh = init_device_mesh("cpu", (world,))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU())
    model.append(nn.Linear(256, 10))
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    images, labels = load_digits(return_X_y=True)
    inputs = torch.tensor(images[rank::world] / 16.0).float()
    targets = torch.tensor(labels[rank::world])
    for step in range(41):
        loss = nn.functional.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0 and rank == 0:
            print(f"step {step}: loss {loss.item():.4f}", flush=True)

    whole = model[0].weight.full_tensor()  # gathered from all ranks
    if rank == 0:
        part = model[0].weight.to_local()
        print(f"rank 0 holds {tuple(part.shape)} of {tuple(whole.shape)}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
