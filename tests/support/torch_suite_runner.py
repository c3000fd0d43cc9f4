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
                "BACKEND": "sealed",
                "WORLD_SIZE": str(size),
                "SUITE_IMPORT": "support.torch_suite",
                "PYTHONPATH": os.pathsep.join((str(PROJECT_ROOT), str(PROJECT_ROOT / "tests"))),
                "SEALFABRIC_SECRET_FILE": str(secret),
                "OMP_NUM_THREADS": "1",
            },
            capture_output=True,
            text=True,
        )
    log = finished.stdout + finished.stderr
    failed = set(re.findall(r"^(?:ERROR|FAIL): (\w+)", log, re.M))
    ran = re.search(r"^Ran (\d+) tests", log, re.M)
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
        if unexpected:
            status = 1
            print(log, f"  not expected: {', '.join(unexpected)}", sep="\n")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
