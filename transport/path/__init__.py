"""How a sealed packet travels: ZeroMQ over TCP, IPC and inproc, and faults on command.

The only package that imports `zmq`. A path never sees a key: what it carries
is sealed before it gets there.
"""

from .base import Endpoint, Path
from .fault import FaultInjector, Faults, FaultyPath

__all__ = ["Endpoint", "FaultInjector", "Faults", "FaultyPath", "Path"]
