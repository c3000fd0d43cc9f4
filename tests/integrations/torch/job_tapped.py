"""A job of two ranks that trains through taps, and leaves behind what the wire must not show."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from support.torch_ranks import say
from transport import Config
from transport.integrations.torch import Options

WORDS = "a word that only the ranks know"


def main() -> None:
    options = Options(
        listen=[os.environ["LISTEN"]],
        advertise=[os.environ["ADVERTISE"]],
        config=Config(shared_memory=False),
    )
    dist.init_process_group("sealed", pg_options=options)
    rank = dist.get_rank()
    torch.manual_seed(rank)  # DDP sends rank 0's weights to the others
    layers = nn.Linear(37, 53), nn.Tanh(), nn.Linear(53, 301), nn.Tanh(), nn.Linear(301, 7)
    network = nn.Sequential(*layers)
    model = DistributedDataParallel(network, bucket_cap_mb=0.02)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    kept = [each.detach().clone() for each in network.parameters()]
    shared = [{"words": WORDS} if rank == 0 else None]
    dist.broadcast_object_list(shared, 0)
    for _ in range(3):
        local = torch.autograd.grad(
            network(inputs := torch.randn(16, 37)).square().mean(), network.parameters()
        )
        kept += local  # what DDP sends before it is averaged
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        kept += [each.grad.clone() for each in network.parameters()]
        optimizer.step()
    kept += [each.detach().clone() for each in network.parameters()]
    gathered = [torch.empty(301, 53) for _ in range(2)]
    dist.all_gather(gathered, network[2].weight.detach())
    dist.barrier()
    blob = torch.cat([each.reshape(-1) for each in kept]).numpy().tobytes()
    (Path(os.environ["JOB_FOLDER"]) / f"kept-{rank}").write_bytes(blob)
    say(sizes=[each.numel() for each in kept], words=shared[0], connections=connections())
    dist.barrier()
    dist.destroy_process_group()


def connections() -> list[tuple[int, int]]:
    """Local and remote port of every TCP connection of this process."""
    mine = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(entry)
        except OSError:  # the descriptor of the listing itself
            continue
        if target.startswith("socket:["):
            mine.add(target.removeprefix("socket:[").removesuffix("]"))
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in mine and fields[3] == "01":  # ESTABLISHED
                found.append(tuple(int(each.rpartition(":")[2], 16) for each in fields[1:3]))
    return found


if __name__ == "__main__":
    main()
