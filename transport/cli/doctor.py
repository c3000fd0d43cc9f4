"""`sealfabric doctor`: what this machine offers a sealed link, and what holds it back.

Facts are read from /proc and the standard library, and are None (printed as
"unknown") where a system does not tell; rates are measured. Everything together
takes under five seconds. A hint names a fact, what it costs and what to do.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import zmq
from cryptography.hazmat.backends.openssl.backend import backend as openssl

from .. import __version__
from ..config import Config
from ..path.shared_memory import Channel, Layout, UnavailableError
from . import measure

MIB: Final = 1024 * 1024
INSTRUCTIONS: Final = {  # our name → the flag in /proc/cpuinfo on x86, and on Arm
    "AES": ("aes", "aes"),
    "PCLMUL": ("pclmulqdq", "pmull"),
    "VAES": ("vaes", None),
    "VPCLMUL": ("vpclmulqdq", None),
    "AVX-512": ("avx512f", None),
}
LIBRARIES: Final = ("cryptography", "pyzmq", "numpy", "msgpack", "torch", "ml_dtypes")

_COLUMNS: Final = 100
_LABEL: Final = 24  # columns of the labels
_FILES_PER_LINK: Final = 16  # open files of a link with four paths, where it was dialled
_FILES_OF_A_NODE: Final = 64  # and of everything else in its process
_FEW_FILES: Final = 4096
_SLOW_SEALING: Final = 2e9  # bytes a second; AES instructions give at least this


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a machine says of itself. Sizes are bytes; None is unknown."""

    system: str
    cpu: str | None
    cores: int  # that this process may use
    instructions: Mapping[str, bool | None]
    versions: Mapping[str, str]  # only of what is installed
    open_files: int | None  # None: unlimited
    receive_buffer_limit: int | None
    send_buffer_limit: int | None
    no_shared_memory: str | None  # why a link has none here; None where it can have it


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What was measured: bytes a second, and seconds."""

    seal_1_mib: float
    seal_64_bytes_seconds: float
    copy: float
    loopback: float
    loopback_round_trip_seconds: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of this command."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")


def run(arguments: argparse.Namespace) -> int:
    """Examine the machine and print what was found; return the exit status."""
    facts, rates = examine(), measure_rates()
    found = hints(facts, rates)
    if arguments.json:
        print(json.dumps({**asdict(facts), "rates": asdict(rates), "hints": found}, indent=2))
    else:
        print(render(facts, rates, found))
    return 0


def examine(proc: Path = Path("/proc")) -> Facts:
    """Read what can be known without measuring."""
    soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    cpu, instructions = read_cpu(proc / "cpuinfo")
    return Facts(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=cpu,
        cores=_usable_cores(),
        instructions=instructions,
        versions=_versions(),
        open_files=None if soft_limit == resource.RLIM_INFINITY else soft_limit,
        receive_buffer_limit=_read_integer(proc / "sys/net/core/rmem_max"),
        send_buffer_limit=_read_integer(proc / "sys/net/core/wmem_max"),
        no_shared_memory=_why_no_shared_memory(),
    )


def read_cpu(path: Path) -> tuple[str | None, dict[str, bool | None]]:
    """Model and instructions from a file like /proc/cpuinfo; unknown without one."""
    fields: dict[str, str] = {}
    try:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    except OSError:
        pass
    listed = fields.get("flags", fields.get("Features"))
    if listed is None:
        return fields.get("model name"), dict.fromkeys(INSTRUCTIONS)
    flags = set(listed.split())
    present = {name: bool(flags & set(known)) for name, known in INSTRUCTIONS.items()}
    return fields.get("model name", platform.machine()), {**present}


def measure_rates() -> Rates:
    """Measure sealing, copying and loopback TCP: about two seconds."""
    return Rates(
        seal_1_mib=MIB / measure.sealing_seconds(MIB),
        seal_64_bytes_seconds=measure.sealing_seconds(64),
        copy=measure.copy_rate(),
        loopback=measure.loopback_rate(Config().kernel_buffer),
        loopback_round_trip_seconds=measure.loopback_round_trip(),
    )


def hints(facts: Facts, rates: Rates) -> list[str]:
    """What holds this machine back, and what to do about it; empty where nothing does."""
    return list(_hints(facts, rates))


def _hints(facts: Facts, rates: Rates) -> Iterator[str]:
    wanted = Config().kernel_buffer
    if facts.instructions["AES"] is False:
        yield "the processor has no AES instructions: sealing will be slow here"
    elif rates.seal_1_mib < _SLOW_SEALING:
        yield (
            f"one core seals only {rates.seal_1_mib / 1e9:.1f} GB/s: is the machine busy, "
            "or does its cryptography wheel lack AES instructions?"
        )
    for name, limit in (
        ("rmem_max", facts.receive_buffer_limit),
        ("wmem_max", facts.send_buffer_limit),
    ):
        if limit is not None and limit < wanted:
            yield (
                f"net.core.{name} is {_size(limit)}, and a path asks for {_size(wanted)}: "
                f"large messages over TCP are faster after sysctl -w net.core.{name}={wanted}"
            )
    if facts.open_files is not None and facts.open_files < _FEW_FILES:
        links = max(0, facts.open_files - _FILES_OF_A_NODE) // _FILES_PER_LINK
        yield (
            f"ulimit -n is {facts.open_files}: raise it for more than about {links} links a node"
        )
    if facts.no_shared_memory is not None:
        yield (
            f"no shared memory ({facts.no_shared_memory}): links between processes here go over "
            "TCP; in a container, allow memfd_create and mount /proc (/dev/shm is not used)"
        )
    if facts.cores < 2:
        yield "one core only: sender, receiver and ZeroMQ's I/O thread will take turns"


def render(facts: Facts, rates: Rates, found: list[str]) -> str:
    """Lay out everything as aligned text of at most 100 columns."""
    words = {True: "yes", False: "no", None: "unknown"}
    present = ", ".join(f"{name} {words[has]}" for name, has in facts.instructions.items())
    unlimited = "unlimited" if facts.open_files is None else str(facts.open_files)
    versions = [f"{name} {number}" for name, number in facts.versions.items()]
    rows = [
        ("system", facts.system),
        ("processor", f"{facts.cpu or 'unknown'}, {facts.cores} usable cores"),
        ("instructions", present),
        ("libraries", ", ".join(versions)),
        ("open files", f"{unlimited} (ulimit -n)"),
        (
            "socket buffers",
            f"receive up to {_size(facts.receive_buffer_limit)}, "
            f"send up to {_size(facts.send_buffer_limit)}; "
            f"a path asks for {_size(Config().kernel_buffer)}",
        ),
        ("shared memory", f"none: {facts.no_shared_memory}" if facts.no_shared_memory else "yes"),
        ("", ""),
        ("AES-256-GCM, one core", f"{rates.seal_1_mib / 1e9:6.2f} GB/s at 1 MiB"),
        ("", f"{rates.seal_64_bytes_seconds * 1e6:6.2f} µs for 64 bytes"),
        ("memory copy, one core", f"{rates.copy / 1e9:6.2f} GB/s"),
        ("TCP on loopback", f"{rates.loopback / 1e9:6.2f} GB/s between two threads"),
        ("", f"{rates.loopback_round_trip_seconds * 1e6:6.1f} µs round trip of 64 bytes"),
    ]
    lines = [line for label, value in rows for line in _wrapped(f"{label:<{_LABEL}}", value)]
    notes = [line for hint in found for line in _wrapped("hint: ", hint)]
    return "\n".join([*lines, "", *(notes or ["nothing holds this machine back"])])


def _wrapped(label: str, value: str) -> list[str]:
    indent = " " * len(label)
    width = _COLUMNS - len(label)
    lines = textwrap.wrap(value, width, break_long_words=False, break_on_hyphens=False) or [""]
    return [f"{label}{lines[0]}".rstrip(), *(indent + line for line in lines[1:])]


def _versions() -> dict[str, str]:
    found = {"sealfabric": __version__, "Python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        # Two wheels bring a library along whose version matters more than their own.
        if name == "cryptography":
            found["OpenSSL"] = openssl.openssl_version_text().split()[1]
        elif name == "pyzmq":
            found["libzmq"] = zmq.zmq_version()
    return found


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _read_integer(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _why_no_shared_memory() -> str | None:
    """Make what a link with a peer on this host would make, and let it go again."""
    try:
        Channel(Layout()).close()
    except UnavailableError as error:
        return str(error)
    return None


def _size(nbytes: int | None) -> str:
    if nbytes is None:
        return "unknown"
    for unit, name in ((1024 * MIB, "GiB"), (MIB, "MiB"), (1024, "KiB")):
        if nbytes >= unit:
            return f"{nbytes / unit:.4g} {name}"
    return f"{nbytes} B"
