"""One rank in a process of its own: `python -m support.group_process WHAT`.

The job comes from the environment, as a launcher sets it; CONNECT_TIMEOUT is for tests.
Each line on standard output is JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys

import numpy as np

from transport import Group, TransportError, connect_group

from .nodes import IMPATIENT


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


def reduce(group: Group) -> None:
    """A few reductions of random floats; says what all ranks must agree on."""
    digest = hashlib.sha256()
    for count in (1, 1000, 700_000):
        mine = np.random.default_rng([group.rank, count]).standard_normal(count)
        digest.update(group.all_reduce(mine.astype(np.float32)).tobytes())
    total = group.all_reduce(np.array([group.rank + 1]))
    group.barrier()
    say(rank=group.rank, digest=digest.hexdigest(), sum=int(total[0]))


def reduce_for_ever(group: Group) -> None:
    """All_reduce until it fails; says when it has begun, and with what it ended."""
    array = np.ones(2_000_000, np.float32)
    rounds = 0
    try:
        while True:
            group.all_reduce(array, "max")
            rounds += 1
            if rounds == 2:
                say(rounds=rounds)
    except TransportError as error:
        say(error=type(error).__name__, text=str(error))


def main() -> None:
    patience = float(os.environ.get("CONNECT_TIMEOUT", "60"))
    try:
        group = connect_group(timeout=60.0, connect_timeout=patience, config=IMPATIENT)
    except TransportError as error:
        say(error=type(error).__name__, text=str(error))
        return
    with group:
        {"reduce": reduce, "reduce-for-ever": reduce_for_ever}[sys.argv[1]](group)


if __name__ == "__main__":
    main()
