"""Runs PyTorch's own distributed tests against `sealed`: `make torch-suite`.

The tool that does it, run_torch_suite.py, lies outside the project like the test vectors,
in ../shared/tools or where SEALFABRIC_TORCH_SUITE points. Without it this says so and ends
well. The tests of monitored_barrier cannot pass: torch has it for Gloo alone.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .nodes import SECRET
from .source_tree import PROJECT_ROOT

TOOL = Path(
    os.environ.get("SEALFABRIC_TORCH_SUITE")
    or PROJECT_ROOT.parent / "shared" / "tools" / "run_torch_suite.py"
)
GLOO_ONLY = frozenset(
    {
        "test_monitored_barrier_gloo",
        "test_monitored_barrier_gloo_rank_0_timeout",
        "test_monitored_barrier_gloo_subgroup",
    }
)
SIZES = (2, 4)
LEAST = 90
"""Tests that run at each size at least, not counting skipped ones; there are a few more."""
LIMIT = 3600.0  # seconds for all tests at one size

SURROUNDINGS = {
    "BACKEND": "sealed",
    "SUITE_IMPORT": "support.torch_suite",
}

# Some of each family, for `make test`. Most of the tests of subgroups need 8 ranks or GPUs.
PART = (
    "test_all_gather",
    "test_all_gather_object_subgroup",
    "test_all_reduce_coalesced_sum",
    "test_all_reduce_full_group_max",
    "test_all_reduce_sum",
    "test_all_to_all_single_unequal_split",
    "test_broadcast",
    "test_batch_isend_irecv_gloo_tags",
    "test_DistributedDataParallelCPU",
    "test_gather_object",
    "test_gather_object_subgroup",
    "test_isend",
    "test_reduce_product",
    "test_scatter",
    "test_scatter_object_list",
    "test_send_recv_any_source",
    "test_send_recv_with_tag",
    "test_sparse_all_reduce_sum",
    "test_accumulate_gradients_no_sync",
)


def run(size: int, names: Sequence[str] = ()) -> tuple[set[str], int, str]:
    """Run the suite, or some of its tests; return what failed, how many ran, and the log."""
    with tempfile.TemporaryDirectory() as folder:
        secret = Path(folder) / "secret"
        secret.touch(mode=0o600)
        secret.write_bytes(SECRET)
        finished = subprocess.run(
            [sys.executable, str(TOOL), "-v", *(f"TestC10d.{name}" for name in names)],
            cwd=folder,
            env={
                # With CI set, torch writes reports by a package that is not needed here.
                **{name: value for name, value in os.environ.items() if name != "CI"},
                **SURROUNDINGS,
                "WORLD_SIZE": str(size),
                "PYTHONPATH": os.pathsep.join((str(PROJECT_ROOT), str(PROJECT_ROOT / "tests"))),
                "SEALFABRIC_SECRET_FILE": str(secret),
                "OMP_NUM_THREADS": "1",
            },
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
    log = finished.stdout + finished.stderr
    failed = set(re.findall(r"^(?:ERROR|FAIL): (\w+)", log, re.M))
    ran = re.search(r"^Ran (\d+) tests?", log, re.M)
    skipped = re.search(r"skipped=(\d+)", log)
    count = 0 if ran is None else int(ran[1]) - (0 if skipped is None else int(skipped[1]))
    if ran is None:
        failed.add("the suite itself")
    return failed, count, log


def main() -> int:
    """Run everything at each size; tell what failed."""
    if not TOOL.is_file():
        print(f"SKIPPED: there is no {TOOL}; SEALFABRIC_TORCH_SUITE may name it")
        return 0
    status = 0
    for size in SIZES:
        failed, count, log = run(size)
        unexpected = sorted(failed - GLOO_ONLY)
        print(f"world size {size}: {count - len(failed)} passed, {len(failed)} failed")
        print(f"  only Gloo has it: {', '.join(sorted(failed & GLOO_ONLY)) or 'none'}")
        if count < LEAST:
            status = 1
            print(log, f"  only {count} tests ran, at least {LEAST} should", sep="\n")
        if unexpected:
            status = 1
            print(log, f"  not expected: {', '.join(unexpected)}", sep="\n")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
