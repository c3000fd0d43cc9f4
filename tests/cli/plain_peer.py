"""A peer of the demonstration that seals nothing: what the demonstration must not accept.

It has those parts of a node's interface that the demonstration uses, over a
plain ZeroMQ PAIR socket, and claims the cipher suite of a sealed link.
"""

from __future__ import annotations

import contextlib
import json
import sys
from types import SimpleNamespace

import numpy as np
import zmq

from transport.cli import demo_peer
from transport.cli.demo import SUITE

with contextlib.suppress(ImportError):
    import ml_dtypes  # noqa: F401 — teaches numpy the names of its dtypes


class PlainNode:
    def __init__(self, name, *, identity, trust, config):
        self._socket = zmq.Context.instance().socket(zmq.PAIR)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVTIMEO, 20_000)
        port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self.addresses = (f"tcp://127.0.0.1:{port}",)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    def connect(self, addresses, *, peer, timeout):
        self._socket.connect(addresses)

    def wait_for(self, peer, timeout):
        pass

    def send(self, tensor, *, to, tag, timeout):
        array = np.frombuffer(tensor, np.uint8) if isinstance(tensor, bytes) else tensor
        spec = json.dumps([array.dtype.name, array.shape, tag]).encode()
        self._socket.send_multipart([spec, np.ascontiguousarray(array).tobytes()])

    def recv(self, out, *, source, tag, timeout):
        spec, data = self._socket.recv_multipart()
        dtype, shape, sent_tag = json.loads(spec)
        assert sent_tag == tag
        return np.frombuffer(data, np.dtype(dtype)).reshape(shape)

    def flush(self, to, timeout):
        pass

    def link(self, peer):
        facts = SimpleNamespace(
            drops={},
            cipher_suite=SUITE,
            generation=0,
            epoch=0,
            handshake_seconds=0.0,
            rtt=None,
            retransmissions=0,
            paths=(),
        )
        return SimpleNamespace(stats=lambda: facts)

    def stats(self):
        return SimpleNamespace(drops={}, links=("peer",))


if __name__ == "__main__":
    sys.exit(demo_peer.main(sys.argv[1:], PlainNode))
