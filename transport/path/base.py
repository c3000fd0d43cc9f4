"""What the engine asks of a transport: endpoints that receive, paths that send.

A path carries whole packets, unreliably as far as anyone above it knows: it
may lose, repeat, reorder or hold them. It never looks into one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

Buffer = bytes | bytearray | memoryview


class Path(Protocol):
    """A way to one peer. Equality and hash are identity."""

    @property
    def address(self) -> str:
        """Where it leads, for people."""
        ...

    @property
    def connected(self) -> bool:
        """Whether the transport believes that somebody is at the other end."""
        ...

    @property
    def endpoint(self) -> Endpoint:
        """Where packets from the other end of this path come in."""
        ...

    def keep(self) -> None:
        """The other end has proven to be a peer: recognise its packets from now on."""
        ...

    def send(self, packet: Buffer, *, stable: bool) -> bool:
        """Hand over one packet; False where nobody is at the other end any more.

        `stable` promises that the memory is not written before the packet is
        acknowledged, so it need not be copied.
        """
        ...

    def close(self) -> None:
        """Release what the path holds; what was sent may still be lost."""
        ...


class Endpoint(Protocol):
    """A source of packets that the engine can sleep on."""

    @property
    def descriptor(self) -> int:
        """Turns readable when packets may be waiting.

        It may be edge-triggered: call `receive` until it yields nothing before
        sleeping, and again after sending over a path of this endpoint.
        """
        ...

    @property
    def monitor_descriptor(self) -> int | None:
        """Turns readable when `connectivity` has something to tell; None where it never has."""
        ...

    def receive(self, limit: int, *, signalled: bool) -> Iterator[tuple[Path, Buffer]]:
        """Yield up to `limit` waiting packets with the path each came over.

        `signalled` says that the descriptor has just turned readable.
        """
        ...

    def connectivity(self) -> Iterator[tuple[Path, bool]]:
        """Yield each path whose connection was made (True) or cut (False) since last asked."""
        ...

    def close(self) -> None:
        """Stop receiving and release the descriptors."""
        ...


CallLater = Callable[[float, Callable[[], None]], None]
"""Run something after so many seconds, under the engine's lock."""

PathFilter = Callable[[Path, CallLater], Path]
"""Wraps each new path; tests put faults between the engine and the wire with it."""
