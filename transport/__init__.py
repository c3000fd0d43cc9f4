"""Sealfabric: always-encrypted tensor transport.

    node = transport.Node("a", identity=identity, trust=trust)
    node.connect(address, peer="b")
    node.send(tensor, to="b", tag=7)
    tensor = node.recv(source="b", tag=7)

Every link is sealed with keys of its own and protected against replay; there
is no plaintext mode. The wire protocol is docs/spec.md.

Names are loaded when they are first used, so that a program which only looks
at errors or the version does not pay for sockets and cryptography.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .collectives import Group, connect_group
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
    from .identity.attestation import (
        AttestationPolicy,
        Attested,
        Attester,
        EmbeddedAttester,
        NitroAttester,
    )
    from .link.stats import LinkStats, PathStats
    from .node import Node, NodeStats, Work
    from .node import PeerLink as Link

__version__ = "0.1.0"

__all__ = [
    "AttestationPolicy",
    "Attested",
    "Attester",
    "AuthenticationError",
    "CancelledError",
    "ClosedError",
    "Config",
    "EmbeddedAttester",
    "Group",
    "HandshakeError",
    "Identity",
    "KeyExhaustedError",
    "LimitError",
    "Link",
    "LinkStats",
    "NitroAttester",
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
    "connect_group",
]

_HOMES = {
    "Group": "collectives",
    "connect_group": "collectives",
    "Config": "config",
    "AttestationPolicy": "identity.attestation",
    "Attested": "identity.attestation",
    "Attester": "identity.attestation",
    "EmbeddedAttester": "identity.attestation",
    "NitroAttester": "identity.attestation",
    "Identity": "identity",
    "Trust": "identity",
    "LinkStats": "link.stats",
    "PathStats": "link.stats",
    "Node": "node",
    "NodeStats": "node",
    "Work": "node",
    "Link": "node",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f".{_HOMES.get(name, 'errors')}", __name__)
    value: object = getattr(module, "PeerLink" if name == "Link" else name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
