"""A job whose ranks meet under a trust file; each says what came of it."""

from __future__ import annotations

import torch
import torch.distributed as dist

from support.torch_ranks import say
from transport import TransportError
from transport.integrations.torch import Options


def main() -> None:
    try:
        dist.init_process_group("sealed", pg_options=Options(connect_timeout=6.0))
        tensor = torch.tensor([dist.get_rank() + 1.0])
        dist.all_reduce(tensor)
    except TransportError as error:
        say(error=str(error))
        return
    node = dist.group.WORLD.group.node
    other = f"rank-{1 - dist.get_rank()}"
    say(sum=float(tensor), attested=node.link(other).stats().attested is not None)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
