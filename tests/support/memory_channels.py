"""Channels through shared memory: both ends in this process, or one in another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from support.shared_memory_peer import packets
from transport.path.base import Buffer
from transport.path.shared_memory import Channel, Layout
from transport.path.shared_memory.layout import MIN_RING

SIZES = {"ring": MIN_RING, "slot": 300_000, "slots": 4}


@contextmanager
def channels(**sizes: int) -> Iterator[tuple[Channel, Channel]]:
    """Both ends in this process."""
    ends = Channel(Layout(**{**SIZES, **sizes})), Channel(Layout(**{**SIZES, **sizes}))
    ends[0].attach(ends[1].claim)
    ends[1].attach(ends[0].claim)
    for end in ends:
        end.keep()
    yield ends
    for end in ends:
        end.close()


class Peer:
    """The other end, in a process of its own."""

    def __init__(self, act: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "support.shared_memory_peer", act, json.dumps(SIZES)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def write(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()


@contextmanager
def with_peer(act: str) -> Iterator[tuple[Channel, Peer]]:
    channel, peer = Channel(Layout(**SIZES)), Peer(act)
    try:
        claim = peer.read()
        peer.write(channel.claim.hex())
        channel.attach(bytes.fromhex(claim))
        assert peer.read() == "attached"
        channel.keep()
        peer.write("go")
        yield channel, peer
    finally:
        channel.close()
        peer.process.kill()
        peer.process.communicate()


def take(channel: Channel, *, sleep: bool = True) -> list[Buffer]:
    found = packets(channel, sleep=sleep)
    assert found, channel.fault
    return found
