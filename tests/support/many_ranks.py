"""Every collective operation among many processes: `make many-ranks`, 64 of them."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from .job import job, said, shared_secret

COUNTS = (3, 5000)


def wrong_results(size: int, folder: Path) -> list[object]:
    """What `size` processes say that came out wrong, once all have ended well."""
    environment = shared_secret(folder) | {"OMP_NUM_THREADS": "1"}
    wrong = []
    with job(size, "everything", environment) as processes:
        for rank, process in enumerate(processes):
            for count in COUNTS:
                line = said(process)
                if line != {"rank": rank, "count": count, "wrong": []}:
                    wrong.append(line)
                if "error" in line:
                    break
        wrong += [f"status {status}" for each in processes if (status := each.wait(60))]
    return wrong


def main() -> None:
    size = int(sys.argv[1])
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        wrong = wrong_results(size, Path(folder))
    print(f"{size} processes, every operation: {time.monotonic() - start:.0f} s")
    if wrong:
        sys.exit("wrong: " + "\n".join(map(str, wrong)))


if __name__ == "__main__":
    main()
