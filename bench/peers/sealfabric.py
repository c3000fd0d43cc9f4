"""Ours: two nodes, X25519 identities and a cluster secret, always sealed.

Every channel has its own node, as every other peer's channel has its own socket;
the identities are made once.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar

import transport

from .endpoint import LOOPBACK, Bytes, Endpoint, Listener, PostingChannel, Role

_PATIENCE = 0.8  # of the deadline, so that the library's own error comes before the watchdog


class Sealed(Endpoint):
    """A node as it is by default: on one host it may cross through shared memory."""

    about: ClassVar[str] = "sealed, shared memory allowed, AES-256-GCM, received in place with out="
    shared_memory: ClassVar[bool] = True

    def __init__(self, *, role: Role, deadline: float) -> None:
        super().__init__(role=role, deadline=deadline * _PATIENCE)
        self._identity = transport.Identity.generate()
        # The initiator's secret is the one that both use.
        self._secret = secrets.token_bytes(32)
        self._trust: transport.Trust | None = None

    @property
    def other(self) -> str:
        """The name of the node in the other worker."""
        return "responder" if self.role == "initiator" else "initiator"

    def version(self) -> str:
        return f"sealfabric {transport.__version__}"

    def introduction(self) -> dict[str, str]:
        return {
            "public_key": bytes(self._identity.public_key).hex(),
            "secret": self._secret.hex(),
        }

    def meet(self, introduction: Mapping[str, str]) -> None:
        if self.role == "responder":
            self._secret = bytes.fromhex(introduction["secret"])
        self._trust = transport.Trust(
            peers={self.other: bytes.fromhex(introduction["public_key"])}, secret=self._secret
        )

    def listen(self) -> Listener:
        node = self._node()

        def accept() -> SealedChannel:
            node.wait_for(self.other, timeout=self.deadline)
            return SealedChannel(node, self.other, self.deadline)

        return Listener(address=json.dumps(list(node.addresses)), accept=accept)

    def dialler(self) -> Callable[[str], SealedChannel]:
        node = self._node()

        def dial(address: str) -> SealedChannel:
            node.connect(json.loads(address), peer=self.other, timeout=self.deadline)
            return SealedChannel(node, self.other, self.deadline)

        return dial

    def _node(self) -> transport.Node:
        if self._trust is None:
            raise RuntimeError("the ends have not met")
        return transport.Node(
            self.role,
            identity=self._identity,
            trust=self._trust,
            listen=(f"tcp://{LOOPBACK}:0",),
            config=transport.Config(shared_memory=self.shared_memory),
        )


class SealedTcp(Sealed):
    """A node that crosses to its peer over TCP, on this host as on any other."""

    about: ClassVar[str] = "as sealfabric, over TCP: shared memory off"
    shared_memory: ClassVar[bool] = False


class SealedChannel(PostingChannel[Bytes]):
    """A link of a node of its own."""

    def __init__(self, node: transport.Node, other: str, deadline: float) -> None:
        self._node = node
        self._other = other
        self._deadline = deadline

    def wrap(self, memory: Bytes) -> Bytes:
        return memory

    def send(self, payload: Bytes) -> None:
        self._node.send(payload, to=self._other, timeout=self._deadline)

    def receive(self, destination: Bytes) -> None:
        self._node.recv(destination, source=self._other, timeout=self._deadline)

    def post_send(self, payload: Bytes) -> Callable[[], object]:
        return partial(self._node.isend(payload, to=self._other).wait, self._deadline)

    def post_receive(self, destination: Bytes) -> Callable[[], object]:
        return partial(self._node.irecv(destination, source=self._other).wait, self._deadline)

    def close(self) -> None:
        self._node.close(timeout=1.0)
