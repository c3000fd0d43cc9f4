"""Hybrid sharding (HSDP) over two sites, where only what leaves a site is sealed.

    torchrun --nproc-per-node 2 examples/train_hsdp.py

Within a site the trusted fabric carries the shards in the clear, by whatever backend is
fastest there (Gloo here, NCCL on GPUs). Between sites gradients are averaged over sealed
links. One argument of the mesh says so: `backend_override={"site": "sealed"}`. Here each
site has one rank. Needs SEALFABRIC_SECRET_FILE, and scikit-learn for its digits.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

SITES = 2


def main() -> None:
    """Replicate over sites, shard within each, and train."""
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    mesh = init_device_mesh(
        "cpu",
        (SITES, world // SITES),
        mesh_dim_names=("site", "shard"),
        backend_override={"site": "sealed"},
    )
    if rank == 0:
        for dimension in ("site", "shard"):
            print(f"{dimension}: {dist.get_backend(mesh[dimension].get_group())}", flush=True)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
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

    group = mesh["site"].get_group()
    other = f"rank-{world // SITES}"
    if rank == 0:
        sent = group.group.node.link(other).stats()
        print(f"between the sites: {sent.cipher_suite}", flush=True)
    dist.barrier()  # until all have looked: a rank that leaves takes its links with it
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
