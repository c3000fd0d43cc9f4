"""Sealfabric: always-encrypted tensor transport.

    node = transport.Node("a", identity=identity, trust=trust)
    node.connect(address, peer="b")
    node.send(tensor, to="b", tag=7)
    tensor = node.recv(source="b", tag=7)

Every link is sealed with keys of its own and protected against replay; there
is no plaintext mode. The wire protocol is docs/spec.md.
"""

import logging as _logging

from .config import Config
from .errors import (
    AuthenticationError,
    CancelledError,
    ClosedError,
    HandshakeError,
    KeyExhaustedError,
    LimitError,
    PeerError,
    PeerLostError,
    PeerRefusedError,
    TransportError,
    TransportTimeoutError,
    TruncatedError,
    UsageError,
)
from .identity import Identity, Trust
from .link.stats import LinkStats, PathStats
from .node import Node, NodeStats, Work
from .node import PeerLink as Link

__version__ = "0.1.0"

__all__ = [
    "AuthenticationError",
    "CancelledError",
    "ClosedError",
    "Config",
    "HandshakeError",
    "Identity",
    "KeyExhaustedError",
    "LimitError",
    "Link",
    "LinkStats",
    "Node",
    "NodeStats",
    "PathStats",
    "PeerError",
    "PeerLostError",
    "PeerRefusedError",
    "TransportError",
    "TransportTimeoutError",
    "TruncatedError",
    "Trust",
    "UsageError",
    "Work",
    "__version__",
]

_logging.getLogger("transport").addHandler(_logging.NullHandler())
