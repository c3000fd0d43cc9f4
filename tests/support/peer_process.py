"""A node in a process of its own, told what to do line by line: `python -m support.peer_process`.

The first argument is JSON that describes the node. Each line on standard input is a
command in JSON, each line on standard output its answer.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from transport import Config, Identity, Node, TransportError, Trust


def payload(seed: int, size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Bytes that depend on both arguments."""
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def digest(array: Any) -> str:
    """What identifies an array's bytes in an answer."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


class Peer:
    """The commands; each returns what its answer holds."""

    def __init__(self, description: dict[str, Any]) -> None:
        peers = description.get("peers")
        secret = description.get("secret")
        self.node = Node(
            description["name"],
            identity=Identity(bytes.fromhex(description["private"])),
            trust=Trust(
                None if peers is None else {n: bytes.fromhex(k) for n, k in peers.items()},
                None if secret is None else bytes.fromhex(secret),
            ),
            listen=description.get("listen", ["tcp://127.0.0.1:0"]),
            config=Config(**description.get("config", {})),
        )

    def addresses(self) -> Any:
        return self.node.addresses

    def connect(self, addresses: list[str], peer: str, timeout: float = 20.0) -> None:
        self.node.connect(addresses, peer=peer, timeout=timeout)

    def wait_for(self, peer: str, timeout: float = 20.0) -> None:
        self.node.wait_for(peer, timeout=timeout)

    def send(self, to: str, seeds: list[int], size: int, tag: int = 0, times: int = 1) -> None:
        for seed in seeds:
            tensor = payload(seed, size)
            for _ in range(times):
                self.node.send(tensor, to=to, tag=tag, timeout=60.0)

    def recv(self, source: str | None, count: int, tag: int = 0, timeout: float = 60.0) -> Any:
        return [
            digest(self.node.recv(source=source, tag=tag, timeout=timeout)) for _ in range(count)
        ]

    def post(self, source: str, tag: int) -> None:
        """Begin to receive, and never look at it again."""
        self.node.irecv(source=source, tag=tag)

    def paths(self, peer: str) -> Any:
        """What the link says of each path."""
        return [dataclasses.asdict(path) for path in self.node.link(peer).stats().paths]

    def drops(self) -> Any:
        """What the node itself has dropped, by cause."""
        return dict(self.node.stats().drops)

    def fork(self) -> int:
        """Start a child that has a copy of all that the node has open; it waits to be killed."""
        child = os.fork()
        if child == 0:
            os.closerange(0, 3)  # but not of these, or the test would wait for it
            signal.pause()
        return child

    def flush(self, timeout: float = 60.0) -> None:
        self.node.flush(timeout=timeout)

    def close(self) -> None:
        self.node.close()


def main() -> None:
    peer = Peer(json.loads(sys.argv[1]))
    print(json.dumps({"result": peer.addresses()}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        call: Callable[..., Any] = getattr(peer, command.pop("do"))
        try:
            answer = {"result": call(**command)}
        except TransportError as error:
            answer = {"error": type(error).__name__, "text": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
