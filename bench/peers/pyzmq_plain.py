"""pyzmq in plaintext: PAIR sockets over TCP, copied out into the destination.

A large message goes as frames, because one frame of 256 MiB makes libzmq allocate
and fault in 256 MiB each time and reaches half the rate. Frames are sent with
`copy=False` and received with `recv_into`, which is the one copy that ZeroMQ cannot
spare. `Plain` keeps libzmq's queue limits. `Tuned` holds the queue of bulk frames
so short that they stay in the processor's cache, and sends small messages through a
second socket with the usual limits: the best that we found ZeroMQ able to do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import zmq

from .endpoint import KERNEL_BUFFER, LOOPBACK, Bytes, Channel, Endpoint, Listener, Role

_COPY_BELOW = 64 * 2**10  # bytes; tracking a frame costs more than copying below this


class Plain(Endpoint):
    """One PAIR socket, 1 MiB frames, libzmq's own queue limits."""

    about: ClassVar[str] = (
        "plaintext PAIR over TCP, frames of up to 1 MiB, copied out with recv_into"
    )
    frame: ClassVar[int] = 2**20
    bulk_queue: ClassVar[int | None] = None  # messages; None: libzmq's default, 1000

    def __init__(self, *, role: Role, deadline: float) -> None:
        super().__init__(role=role, deadline=deadline)
        self._context = zmq.Context()

    def version(self) -> str:
        return f"pyzmq {zmq.pyzmq_version()}, libzmq {zmq.zmq_version()}"

    def listen(self) -> Listener:
        sockets = self._sockets(server=True)
        ports = [socket.bind_to_random_port(f"tcp://{LOOPBACK}") for socket in sockets]
        return Listener(
            address=" ".join(f"tcp://{LOOPBACK}:{port}" for port in ports),
            accept=lambda: FramedChannel(sockets, self.frame),
        )

    def dialler(self) -> Callable[[str], FramedChannel]:
        sockets = self._sockets(server=False)

        def dial(address: str) -> FramedChannel:
            for socket, one in zip(sockets, address.split(), strict=True):
                socket.connect(one)
            return FramedChannel(sockets, self.frame)

        return dial

    def secure(self, socket: zmq.Socket[bytes], *, server: bool) -> None:
        """Set the socket's security options before it is bound or connected: none here."""

    def _sockets(self, *, server: bool) -> list[zmq.Socket[bytes]]:
        small = self._socket(None, server=server)
        if self.bulk_queue is None:
            return [small]
        return [small, self._socket(self.bulk_queue, server=server)]

    def _socket(self, queue: int | None, *, server: bool) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(zmq.PAIR)
        socket.set(zmq.SNDBUF, KERNEL_BUFFER)
        socket.set(zmq.RCVBUF, KERNEL_BUFFER)
        socket.set(zmq.LINGER, 0)
        if queue is not None:
            socket.set_hwm(queue)
        self.secure(socket, server=server)
        return socket


class Tuned(Plain):
    """Two PAIR sockets: bulk in 512 KiB frames with a queue of four, small messages apart."""

    about: ClassVar[str] = (
        "as pyzmq, with bulk on its own socket: 512 KiB frames, queue limit of 4 messages"
    )
    frame: ClassVar[int] = 512 * 2**10
    bulk_queue: ClassVar[int | None] = 4


class FramedChannel(Channel[memoryview]):
    """A message as one frame or several, each of at most `frame` bytes."""

    def __init__(self, sockets: list[zmq.Socket[bytes]], frame: int) -> None:
        self._small, self._bulk = sockets[0], sockets[-1]
        self._frame = frame

    def wrap(self, memory: Bytes) -> memoryview:
        return memory.data

    def send(self, payload: memoryview) -> None:
        nbytes = payload.nbytes
        if nbytes < _COPY_BELOW:
            self._small.send(payload)
            return
        frame, socket = self._frame, self._bulk
        for offset in range(0, nbytes, frame):
            socket.send(payload[offset : offset + frame], copy=False)

    def receive(self, destination: memoryview) -> None:
        nbytes = destination.nbytes
        if nbytes < _COPY_BELOW:
            self._small.recv_into(destination)
            return
        frame, socket, offset = self._frame, self._bulk, 0
        while offset < nbytes:
            offset += socket.recv_into(destination[offset : offset + frame])

    def close(self) -> None:
        self._small.close()
        self._bulk.close()
