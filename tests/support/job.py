"""Jobs for tests: one process a rank, with the environment that a launcher sets."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .nodes import SECRET

_TESTS = Path(__file__).parents[1]


def shared_secret(folder: Path) -> dict[str, str]:
    """The tests' cluster secret in a file, and the variable that names it."""
    path = folder / "secret"
    path.write_bytes(SECRET)
    path.chmod(0o600)
    return {"SEALFABRIC_SECRET_FILE": str(path)}


@contextmanager
def job(
    size: int,
    what: str,
    environment: Mapping[str, str],
    *,
    of_rank: Mapping[int, Mapping[str, str]] | None = None,
) -> Iterator[list[subprocess.Popen[str]]]:
    """One process a rank from `support.group_process`, all ended at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    search = os.pathsep.join([str(_TESTS), str(_TESTS.parent), os.environ.get("PYTHONPATH", "")])
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "support.group_process", what],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": search,
                "RANK": str(rank),
                "WORLD_SIZE": str(size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                **environment,
                **(of_rank or {}).get(rank, {}),
            },
        )
        for rank in range(size)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def said(process: subprocess.Popen[str]) -> Any:
    """The next line that a rank has printed."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"the process ended with {process.wait(30)} and said nothing"
    return json.loads(line)
