"""pyzmq with CURVE: ZeroMQ's own encryption, Curve25519 and XSalsa20-Poly1305.

Set up as the plaintext peer is, with a key pair at either end; the initiator knows
the responder's public key. The responder asks no authenticator about the
initiator's key, so this handshake checks one direction less than ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import zmq

from .endpoint import Role
from .pyzmq_plain import Plain


class Curve(Plain):
    """The plaintext peer with CURVE switched on."""

    about: ClassVar[str] = "as pyzmq, with CURVE (XSalsa20-Poly1305)"

    def __init__(self, *, role: Role, deadline: float) -> None:
        super().__init__(role=role, deadline=deadline)
        self._public, self._private = zmq.curve_keypair()
        self._responder_public = self._public

    def introduction(self) -> dict[str, str]:
        return {"public_key": self._public.decode("ascii")}

    def meet(self, introduction: Mapping[str, str]) -> None:
        if self.role == "initiator":
            self._responder_public = introduction["public_key"].encode("ascii")

    def secure(self, socket: zmq.Socket[bytes], *, server: bool) -> None:
        socket.set(zmq.CURVE_PUBLICKEY, self._public)
        socket.set(zmq.CURVE_SECRETKEY, self._private)
        if server:
            socket.set(zmq.CURVE_SERVER, 1)
        else:
            socket.set(zmq.CURVE_SERVERKEY, self._responder_public)
