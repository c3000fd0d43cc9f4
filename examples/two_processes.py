"""Two processes share a cluster secret and exchange tensors.

    python examples/two_processes.py

The main process starts a worker, tells it the secret over a pipe, and learns from
it where it listens. It sends a matrix and receives the product with its transpose.
"""

from __future__ import annotations

import secrets
import subprocess
import sys

import numpy as np

import transport

MATRIX, PRODUCT = 1, 2  # tags
TIMEOUT = 30.0  # seconds


def main() -> None:
    """Start the worker, give it work, and check the answer."""
    secret = secrets.token_bytes(32)
    worker = subprocess.Popen(
        [sys.executable, __file__, "worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        address = tell(worker, secret.hex())
        with node_named("main", secret) as node:
            link = node.connect(address, peer="worker", timeout=TIMEOUT)
            matrix = np.arange(600_000, dtype=np.float64).reshape(300, 2000)
            node.isend(matrix, to="worker", tag=MATRIX)
            product = node.recv(source="worker", tag=PRODUCT, timeout=TIMEOUT)
            stats = link.stats()  # can be read when the worker has left, too
        print(f"product {product.shape}, correct: {np.array_equal(product, matrix @ matrix.T)}")
        print(f"{stats.bytes_sent} bytes sent under {stats.cipher_suite}")
    finally:
        worker.communicate(timeout=TIMEOUT)


def tell(worker: subprocess.Popen[str], line: str) -> str:
    """Write a line to the worker and return the line that it answers."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    print(line, file=worker.stdin, flush=True)
    return worker.stdout.readline().strip()


def work() -> None:
    """Receive one matrix, and send its product with its transpose."""
    secret = bytes.fromhex(sys.stdin.readline())
    with node_named("worker", secret) as node:
        print(node.addresses[0], flush=True)
        node.wait_for("main", timeout=TIMEOUT)
        matrix = node.recv(source="main", tag=MATRIX, timeout=TIMEOUT)
        node.send(matrix @ matrix.T, to="main", tag=PRODUCT, timeout=TIMEOUT)


def node_named(name: str, secret: bytes) -> transport.Node:
    """A node of this cluster, with an identity of its own."""
    identity = transport.Identity.generate()
    return transport.Node(name, identity=identity, trust=transport.Trust(secret=secret))


if __name__ == "__main__":
    work() if sys.argv[1:] == ["worker"] else main()
