"""What a flood of unauthenticated packets leaves of a living link's throughput.

Three states in turn, round by round: the link alone, the link beside a process
that burns a core, and the link beside a process that floods the receiver's
port. On a machine with few cores the flooder takes one whatever the receiver
does, so the second state is what the third is to be compared with.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

import numpy as np

import transport

from .errors import BenchError
from .machine import describe_machine

_MESSAGE = 8 * 1024 * 1024
_PATIENCE = 60.0
_spawn = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True, kw_only=True)
class Flood:
    """Packets of `size` bytes over `connections`; `head` is how each begins."""

    name: str
    size: int
    connections: int
    head: bytes = b""


FLOODS = (
    Flood(name="junk of 100 B, 1 connection", size=100, connections=1),
    Flood(name="junk of 100 B, 8 connections", size=100, connections=8),
    Flood(
        name="first packets of 1.3 KB, 4 connections",
        size=1300,
        connections=4,
        head=bytes((0x11, 0, 60, 0)),
    ),
    Flood(name="junk of 1 MB, 1 connection", size=1_000_000, connections=1),
    Flood(name="junk of 1 MB, 4 connections", size=1_000_000, connections=4),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `bench flood`."""
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default 3)")
    parser.add_argument("--seconds", type=float, default=1.5, help="of each state (default 1.5)")


def run(args: argparse.Namespace) -> int:
    """Measure, print a table, and return 0."""
    if args.rounds < 1 or args.seconds <= 0:
        raise BenchError("rounds and seconds must be positive")
    print(describe_machine().line())
    print(f"\nMedians over {args.rounds} rounds of {args.seconds} s. GB/s of 8 MiB messages.\n")
    print(f"  {'beside':40}  alone  busy  flood  flood/alone  flood/busy  packets dropped/s")
    for flood in FLOODS:
        print(_line(flood, _measure(flood, args.rounds, args.seconds)), flush=True)
    return 0


def _line(flood: Flood, rounds: list[tuple[float, float, float, float]]) -> str:
    alone, busy, flooded, dropped = (median(column) for column in zip(*rounds, strict=True))
    to_alone = median(row[2] / row[0] for row in rounds)
    to_busy = median(row[2] / row[1] for row in rounds)
    return (
        f"  {flood.name:40}  {alone:5.2f}  {busy:4.2f}  {flooded:5.2f}  {to_alone:11.2f}"
        f"  {to_busy:10.2f}  {dropped:17.0f}"
    )


def _measure(flood: Flood, rounds: int, seconds: float) -> list[tuple[float, float, float, float]]:
    secret = secrets.token_bytes(32)
    trust = transport.Trust(secret=secret)
    identity = transport.Identity.generate()
    results = []
    with transport.Node("receiver", identity=identity, trust=trust) as node:
        address = node.addresses[0]
        with _beside(_send, address, secret):
            node.wait_for("sender", timeout=_PATIENCE)
            _rate(node, seconds / 3)
            for _ in range(rounds):
                alone = _rate(node, seconds)
                with _beside(_burn):
                    busy = _rate(node, seconds)
                with _beside(_flood, address, flood):
                    before, started = _dropped(node), time.monotonic()
                    flooded = _rate(node, seconds)
                    dropped = (_dropped(node) - before) / (time.monotonic() - started)
                results.append((alone, busy, flooded, dropped))
        node.close(timeout=0.0)  # a sender that was killed answers no goodbye
    return results


def _rate(node: transport.Node, seconds: float) -> float:
    """GB/s received; the first message is not counted, so that the state has set in."""
    memory = np.empty(_MESSAGE, np.uint8)
    node.recv(memory, source="sender", timeout=_PATIENCE)
    started, received = time.monotonic(), 0
    while time.monotonic() - started < seconds:
        node.recv(memory, source="sender", timeout=_PATIENCE)
        received += _MESSAGE
    return received / (time.monotonic() - started) / 1e9


def _dropped(node: transport.Node) -> int:
    return sum(node.stats().drops.values())


@contextlib.contextmanager
def _beside(work: Callable[..., None], *arguments: object) -> Iterator[None]:
    """Run `work` in a process of its own, from its first sign of life to the end of the block."""
    ready = _spawn.Event()
    process = _spawn.Process(target=work, args=(*arguments, ready), daemon=True)
    process.start()
    try:
        if not ready.wait(_PATIENCE):
            raise BenchError(f"a process for {work.__name__} did not start")
        yield
    finally:
        process.kill()
        process.join()


def _send(address: str, secret: bytes, ready: object) -> None:
    identity, trust = transport.Identity.generate(), transport.Trust(secret=secret)
    with transport.Node("sender", identity=identity, trust=trust, listen=()) as node:
        node.connect(address, peer="receiver", timeout=_PATIENCE)
        payload = np.ones(_MESSAGE, np.uint8)
        _signal(ready)
        while True:
            node.send(payload, to="receiver")


def _burn(ready: object) -> None:
    _signal(ready)
    while True:
        pass


def _flood(address: str, flood: Flood, ready: object) -> None:
    import zmq

    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    poller = zmq.Poller()
    packet = flood.head + os.urandom(flood.size - len(flood.head))
    for _ in range(flood.connections):
        socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, 200)
        socket.connect(address)
        poller.register(socket, zmq.POLLOUT)
    _signal(ready)
    while True:
        for socket, _ in poller.poll():
            with contextlib.suppress(zmq.Again):
                for _ in range(50):
                    socket.send(packet, zmq.NOBLOCK)


def _signal(ready: object) -> None:
    ready.set()  # type: ignore[attr-defined]  # multiprocessing names no type for its events
