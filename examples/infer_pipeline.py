"""Pipeline-parallel inference: each rank holds some layers, activations travel sealed.

    torchrun --nproc-per-node 2 examples/infer_pipeline.py

Rank 0 feeds batches of digits to its layers and sends what comes out to the next rank, and
so on; the last one answers. A rank works on one batch while the next one is on its way.
Needs SEALFABRIC_SECRET_FILE, and scikit-learn for its digits.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn

BATCHES, BATCH, WIDTH = 8, 32, 64


def main() -> None:
    """Run this rank's stage; the last rank compares with the whole network on its own."""
    dist.init_process_group("sealed")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(2 * world)]
    stage = nn.Sequential(*layers[2 * rank : 2 * rank + 2])
    digits = torch.tensor(load_digits().data[: BATCHES * BATCH] / 16.0).float()

    answers: list[torch.Tensor] = []
    with torch.inference_mode():
        incoming = expect(rank)
        for number, inputs in enumerate(digits.split(BATCH)):
            if incoming is not None:
                buffer, work = incoming
                work.wait()
                inputs = buffer
                incoming = expect(rank) if number + 1 < BATCHES else None
            activations = stage(inputs)
            if rank + 1 < world:
                dist.send(activations, rank + 1)
            else:
                answers.append(activations)
        if rank + 1 == world:
            same = torch.equal(torch.cat(answers), run_alone(layers, digits))
            print(f"{len(answers)} batches through {world} stages, same: {same}", flush=True)
    dist.destroy_process_group()


def expect(rank: int) -> tuple[torch.Tensor, dist.Work] | None:
    """Begin to receive the next batch from the rank before this one."""
    if rank == 0:
        return None
    buffer = torch.empty(BATCH, WIDTH)
    return buffer, dist.irecv(buffer, rank - 1)


def run_alone(layers: list[nn.Sequential], digits: torch.Tensor) -> torch.Tensor:
    """The same in one process."""
    return torch.cat([nn.Sequential(*layers)(each) for each in digits.split(BATCH)])


if __name__ == "__main__":
    main()
