"""Services that run on nodes and sockets: a key service over a sealed link, and an XKS proxy.

What they decide is decided in `transport.identity.kms`, which knows of no socket. Here
are the threads, clocks and listeners.
"""

from __future__ import annotations

from .key_client import RemoteKeyService
from .key_server import KeyServer
from .xks_server import XksServer, tls_context

__all__ = ["KeyServer", "RemoteKeyService", "XksServer", "tls_context"]
