"""A job of four ranks that reduce until one of them is killed, or says why it ended."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist

from support.torch_ranks import say
from transport import Config, TransportError
from transport.integrations.torch import Options

TIMEOUT = timedelta(seconds=60)
IMPATIENT = Options(config=Config(peer_timeout=2.5, heartbeat_interval=0.5))


def main() -> None:
    dist.init_process_group("sealed", timeout=TIMEOUT, pg_options=IMPATIENT)
    tensor = torch.ones(4_000_000)
    rounds = 0
    try:
        while True:
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
            rounds += 1
            if rounds == 2:
                say(rounds=rounds)
    except TransportError as error:
        say(error=type(error).__name__, text=str(error))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
