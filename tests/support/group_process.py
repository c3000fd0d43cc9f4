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

from transport import Config, Group, TransportError, connect_group

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


def everything(group: Group) -> None:
    """Every operation, with a small tensor and a larger one; says what came out wrong."""
    rank, size = group.rank, group.size
    ranks = np.arange(size)
    for count in (3, 5000):
        mine = np.full(count, rank + 1)
        each = np.repeat(ranks + 1, count)  # what all ranks have, one after the other
        total = size * (size + 1) // 2
        root = size // 2
        group.barrier()
        results = {
            "all_reduce": (group.all_reduce(mine.copy()), np.full(count, total)),
            "reduce_scatter": (group.reduce_scatter(each.copy()), mine * size),
            "all_gather": (group.all_gather(mine), each),
            "broadcast": (group.broadcast(mine.copy(), root=root), np.full(count, root + 1)),
            "reduce": (group.reduce(mine.copy(), "max", root=root), np.full(count, size)),
            "gather": (group.gather(mine, root=root), each),
            "scatter": (group.scatter(each, root=root, out=np.empty(count, int)), mine),
            "all_to_all": (group.all_to_all(each + 1000 * rank), mine[0] + 1000 * each - 1000),
        }
        wrong = [
            name
            for name, (got, expected) in results.items()
            if not (got is None and rank != root and name in ("reduce", "gather"))
            and not np.array_equal(got, expected)
        ]
        say(rank=rank, count=count, wrong=wrong)
    group.barrier()


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
        # Where many share few cores, a peer that lives may be silent for seconds.
        config = Config() if sys.argv[1] == "everything" else IMPATIENT
        group = connect_group(timeout=120.0, connect_timeout=patience, config=config)
    except TransportError as error:
        say(error=type(error).__name__, text=str(error))
        return
    with group:
        {"reduce": reduce, "reduce-for-ever": reduce_for_ever, "everything": everything}[
            sys.argv[1]
        ](group)


if __name__ == "__main__":
    main()
