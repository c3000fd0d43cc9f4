"""A job that runs some of PyTorch's own tests of backends one after the other, by name.

The suite starts processes for each of its tests; here all of them share those of the job
and one default group, so a test costs what it does and not the start of torch.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable
from datetime import timedelta

import torch.distributed as dist
from torch.testing._internal.common_utils import set_rng_seed

from support.torch_ranks import checks, main
from support.torch_suite_runner import PART, TOOL

SUITE = runpy.run_path(str(TOOL))["TestC10d"]
dist.init_process_group("sealed", timeout=timedelta(seconds=20))  # so that a hang has a name


def as_on_a_rank(name: str) -> Callable[[], object]:
    """One test as the suite runs it in each of its processes.

    Conditions that its decorators set, such as an exact number of ranks, are not asked; one
    that skips by itself fails here.
    """

    def run() -> None:
        test = SUITE(name)
        test.rank = dist.get_rank()
        set_rng_seed()
        getattr(test, name)()
        dist.barrier()

    return run


checks.update({name: as_on_a_rank(name) for name in PART})

if __name__ == "__main__":
    main()
