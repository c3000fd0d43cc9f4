"""Data-parallel training of a small network on real handwritten digits.

    sealfabric keygen --secret cluster.secret
    export SEALFABRIC_SECRET_FILE=$PWD/cluster.secret
    torchrun --nproc-per-node 2 examples/train_ddp.py --backend sealed

The name of the backend is all that differs from a plaintext run: `--backend gloo` prints
the same losses and the same digest of the final weights. Needs scikit-learn for the data,
which it ships, so nothing is downloaded.
"""

from __future__ import annotations

import argparse
import hashlib

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler


def main() -> None:
    """Train on this rank's share of the digits; rank 0 reports."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--backend", default="sealed", help="sealed, or gloo for plaintext")
    options.add_argument("--epochs", type=int, default=5)
    chosen = options.parse_args()

    dist.init_process_group(chosen.backend)
    torch.manual_seed(0)  # all ranks begin with the same weights
    network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    model = DistributedDataParallel(network)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images / 16.0).float(), torch.tensor(labels))
    sampler = DistributedSampler(data, seed=0)
    batches = DataLoader(data, batch_size=64, sampler=sampler)
    for epoch in range(chosen.epochs):
        sampler.set_epoch(epoch)
        total = torch.zeros(2)  # the sum of the losses, and how many digits they are of
        for inputs, targets in batches:
            loss = nn.functional.cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()  # here gradients are averaged over all ranks
            optimizer.step()
            total += torch.tensor([loss.item() * len(targets), len(targets)])
        dist.all_reduce(total)
        report(f"epoch {epoch}: loss {total[0] / total[1]:.6f}")

    with torch.no_grad():
        right = (network(data.tensors[0]).argmax(1) == data.tensors[1]).float().mean()
    report(f"accuracy {right:.3f}")
    report(f"weights {digest(network)}")
    dist.destroy_process_group()


def digest(network: nn.Module) -> str:
    """The first bytes of SHA-256 over all weights: equal only where every bit is."""
    hashed = hashlib.sha256()
    for weights in network.parameters():
        hashed.update(weights.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()[:32]


def report(line: str) -> None:
    """Print on rank 0."""
    if dist.get_rank() == 0:
        print(line, flush=True)


if __name__ == "__main__":
    main()
