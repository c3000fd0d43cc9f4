"""Shared memory of nodes under test: what it carries, what is held of it, who tampers with it."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from transport import Node, PathStats
from transport.node import neighbour
from transport.path.base import Buffer
from transport.path.shared_memory import Channel, Layout
from transport.path.shared_memory import channel as channel_module
from transport.path.shared_memory.segment import Segment, create

from .nodes import until

MEMORY = "shared memory"
MEMFD = "memfd:sealfabric"


def memory_path(one: Node, peer: str) -> PathStats | None:
    """The path of a link that leads through memory; None where it has none."""
    for path in one.link(peer).stats().paths:
        if path.address.startswith(MEMORY):
            return path
    return None


def uses_memory(one: Node, other: Node) -> bool:
    """Whether both sides have their link's path through memory, and it works."""
    paths = memory_path(one, other.name), memory_path(other, one.name)
    return all(path is not None and path.state == "usable" for path in paths)


def gave_up_memory(one: Node, other: Node) -> bool:
    """Whether both sides had such a path and it is down."""
    paths = memory_path(one, other.name), memory_path(other, one.name)
    return all(path is not None and path.state == "down" for path in paths)


def held(pid: int | str = "self") -> Counter[str]:
    """What a process has of descriptors, by kind, and of mapped segments."""
    kinds: Counter[str] = Counter()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(each)
        except OSError:
            continue  # the descriptor of this very listing
        kinds[MEMFD if MEMFD in target else target.partition(":")[0]] += 1
    kinds["mapped"] = Path(f"/proc/{pid}/maps").read_text().count(MEMFD)
    return kinds


def memory_held(pid: int | str = "self") -> tuple[int, int]:
    """Of these, the segments that it has open, and that it has mapped."""
    kinds = held(pid)
    return kinds[MEMFD], kinds["mapped"]


Send = Callable[[Buffer], bool]


class Tamperer:
    """Stands where a process writes its own segment: sees each packet of it before the ring does.

    `act(segment, packet, send)` is called for each packet of the node that made segment
    number `number` of the test, once `armed`; the answerer makes the first one.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self.number = number
        self.segments: list[Segment] = []
        self.act: Callable[[Segment, Buffer, Send], bool] | None = None
        tamperer = self

        class Tampered(Channel):
            def __init__(self, layout: Layout) -> None:
                super().__init__(layout)
                self.number = len(tamperer.segments) - 1

            def send(self, packet: Buffer, *, stable: bool) -> bool:
                act = tamperer.act
                if self.number != number or act is None or self.fault is not None:
                    return super().send(packet, stable=stable)
                honest = super().send
                return act(
                    tamperer.segments[number], packet, lambda other: honest(other, stable=stable)
                )

        def recorded(layout: Layout, nonce: bytes) -> Segment:
            segment = create(layout, nonce)
            self.segments.append(segment)
            return segment

        monkeypatch.setattr(channel_module, "create", recorded)
        monkeypatch.setattr(neighbour, "Channel", Tampered)


def wait_for_memory(one: Node, other: Node) -> None:
    """Return once both sides use it."""
    until(lambda: uses_memory(one, other))


class Restless:
    """A thread that does the same thing over and over until it is left."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._over.is_set():
            self._action()

    def __enter__(self) -> Restless:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
