"""The transports that are measured: one module a peer, all behind one interface.

Each peer runs as two worker processes on loopback (`worker`), which talk to each
other only through the transport under measurement and take their orders from the
measuring process (`pair`). Workers of other peers stand idle meanwhile, so that
no peer pays for another's threads.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass

from ..errors import BenchError
from .endpoint import Endpoint

OURS = "sealfabric"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Where a peer's endpoint is found, and what it needs and offers."""

    module: str
    endpoint: str
    requires: tuple[str, ...]  # importable modules
    secures: bool  # has a handshake worth timing
    by_default: bool = True


CATALOGUE: dict[str, Entry] = {
    OURS: Entry(module="sealfabric", endpoint="Sealed", requires=("transport.node",), secures=True),
    "sealfabric-shm": Entry(
        module="sealfabric",
        endpoint="SealedSharedMemory",
        requires=("transport.node",),
        secures=True,
        by_default=False,
    ),
    "pyzmq": Entry(module="pyzmq_plain", endpoint="Plain", requires=("zmq",), secures=False),
    "pyzmq-tuned": Entry(module="pyzmq_plain", endpoint="Tuned", requires=("zmq",), secures=False),
    "curve": Entry(module="pyzmq_curve", endpoint="Curve", requires=("zmq",), secures=True),
    "tls": Entry(module="tls", endpoint="Tls", requires=("ssl", "cryptography"), secures=True),
    "gloo": Entry(module="gloo", endpoint="Gloo", requires=("torch",), secures=False),
}


def missing(name: str) -> str | None:
    """Return why `name` cannot run here, or None; nothing is imported to find out."""
    for module in _entry(name).requires:
        try:
            absent = importlib.util.find_spec(module) is None
        except ImportError:
            absent = True
        if absent:
            return f"{module} is not installed"
    return None


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
