"""One of the two processes of the demonstration: a node that obeys lines of JSON.

`python -m transport.cli.demo_peer NAME FOLDER` reads one request a line from
standard input and writes one answer a line to standard output. The folder holds
the identity and the trust file of this node. The process ends when its input does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np

from .. import Config, Identity, Node, Trust
from ..errors import TransportError, UsageError
from .demo_tensors import (
    NAME_TAG,
    TENSOR_TAG,
    Array,
    NamedTensor,
    attacked_tensors,
    digest,
    large_tensor,
    small_tensors,
)

STEP_TIMEOUT: Final = 40.0  # seconds that one step of the demonstration may take
PREALLOCATED: Final = 1 << 20  # bytes from which a tensor is received into memory kept ready

Request = Mapping[str, Any]
Answer = dict[str, object]


class DemoPeer:
    """A node and the steps that it can be asked for, each a method."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._batches: dict[str, list[NamedTensor]] = {}
        self._ready: Array = np.empty(0, np.float32)

    def addresses(self, request: Request) -> Answer:
        """Where this node listens."""
        return {"addresses": list(self._node.addresses)}

    def connect(self, request: Request) -> Answer:
        """Dial the peer, at an address that may be anyone's."""
        self._node.connect(request["address"], peer=request["peer"], timeout=STEP_TIMEOUT)
        return {}

    def wait_for(self, request: Request) -> Answer:
        """Wait until the peer has dialled."""
        self._node.wait_for(request["peer"], timeout=STEP_TIMEOUT)
        return {}

    def make_tensors(self, request: Request) -> Answer:
        """Make what is to be sent; say what it is, so that nobody trusts the network."""
        large = large_tensor(request["nbytes"])
        self._batches = {
            "small": small_tensors(request["seed"]),
            "large": [large],
            "attacked": attacked_tensors(large, request["seed"]),
        }
        return {
            batch: [_described(tensor.name, tensor.array) for tensor in tensors]
            for batch, tensors in self._batches.items()
        }

    def make_room(self, request: Request) -> Answer:
        """Have memory ready for the largest tensor, as a training loop would."""
        self._ready = np.full(request["nbytes"] // 4, -1.0, np.float32)
        return {}

    def send(self, request: Request) -> Answer:
        """Send a batch; the time ends when the peer has acknowledged everything."""
        peer = request["peer"]
        start = perf_counter()
        for tensor in self._batches[request["batch"]]:
            self._node.send(tensor.name.encode(), to=peer, tag=NAME_TAG, timeout=STEP_TIMEOUT)
            self._node.send(tensor.array, to=peer, tag=TENSOR_TAG, timeout=STEP_TIMEOUT)
        self._node.flush(peer, timeout=STEP_TIMEOUT)
        return {"seconds": perf_counter() - start}

    def receive(self, request: Request) -> Answer:
        """Receive as many tensors as `sizes` has entries, bytes each; describe them."""
        received = []
        for nbytes in request["sizes"]:
            name = self._receive(NAME_TAG, request["peer"], None)
            room = self._ready[: nbytes // 4] if nbytes >= PREALLOCATED else None
            tensor = self._receive(TENSOR_TAG, request["peer"], room)
            received.append(_described(name.tobytes().decode(), tensor))
            if room is not None:
                room[:] = -1.0  # what a later transfer leaves out must not go unnoticed
        return {"received": received}

    def _receive(self, tag: int, peer: str, out: Array | None) -> Array:
        array: Array = self._node.recv(out, source=peer, tag=tag, timeout=STEP_TIMEOUT)
        return array

    def stats(self, request: Request) -> Answer:
        """What the link says of itself, and everything that was dropped, by cause."""
        link = self._node.link(request["peer"]).stats()
        node = self._node.stats()
        drops = dict(link.drops)
        for cause, count in node.drops.items():
            drops[cause] = drops.get(cause, 0) + count
        return {
            "drops": {cause: count for cause, count in drops.items() if count},
            "suite": link.cipher_suite,
            "generation": link.generation,
            "epoch": link.epoch,
            "handshake_seconds": link.handshake_seconds,
            "rtt": link.rtt,
            "retransmissions": link.retransmissions,
            "links": len(node.links),
            "paths": [
                {"address": p.address, "state": p.state, "rtt": p.rtt, "sent": p.bytes_sent}
                for p in link.paths
            ],
        }


def main(arguments: Sequence[str], node_type: Callable[..., Node] = Node) -> int:
    """Serve requests until standard input ends.

    `node_type` is for tests, which show that the demonstration fails with a node
    that seals nothing.
    """
    name, folder = arguments[0], Path(arguments[1])
    identity = Identity.load(folder / f"{name}.identity")
    trust = Trust.load(folder / f"{name}.trust")
    # Shared memory would bypass the network, which is what is on show.
    config = Config(shared_memory=False)
    with node_type(name, identity=identity, trust=trust, config=config) as node:
        peer = DemoPeer(node)
        steps: dict[str, Callable[[Request], Answer]] = {
            step.__name__: step
            for step in (
                peer.addresses,
                peer.connect,
                peer.wait_for,
                peer.make_tensors,
                peer.make_room,
                peer.send,
                peer.receive,
                peer.stats,
            )
        }
        for line in sys.stdin:
            print(json.dumps(_serve(steps, json.loads(line))), flush=True)
    return 0


def _serve(steps: Mapping[str, Callable[[Request], Answer]], request: Request) -> Answer:
    try:
        step = steps.get(request["step"])
        if step is None:
            raise UsageError(f"no step {request['step']!r}")
        return step(request)
    except TransportError as error:
        return {"error": f"{type(error).__name__}: {error}"}


def _described(name: str, array: Array) -> Answer:
    return {
        "name": name,
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "nbytes": array.nbytes,
        "digest": digest(array),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
