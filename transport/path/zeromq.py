"""Paths over ZeroMQ: TCP, IPC and inproc (docs/spec.md 2).

A listener is one ROUTER socket for all its callers; a dialled path is one
DEALER socket, hence one TCP connection. A packet is one ZeroMQ message of one
frame. ZeroMQ's own security stays off: it would add a pass over the bytes and
proves nothing that the sealed link does not.

Before authentication the only bound on memory is ZeroMQ's: MAXMSGSIZE caps a
frame and RCVHWM caps the frames a connection may have waiting.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final, cast

import zmq
from zmq.backend import Socket as BackendSocket

from ..config import Config
from ..errors import UsageError
from .base import Buffer, Path
from .memory import keep_freed_packets

ZSocket = zmq.Socket[bytes]

_ADDRESS: Final = re.compile(
    r"tcp://(\[[0-9a-fA-F:.%]+\]|[^\s:/]+):(\d{1,5}|\*)|ipc://.+|inproc://.+"
)
_HIGHEST_PORT: Final = 65_535
_LINGER_MS: Final = 250  # long enough for a last acknowledgement, short enough to wait for
_CALL_SHARE: Final = 1 / 4  # of the peer time-out, for TCP's own handshake
_MONITORED: Final = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED

# The hot calls go to the backend with plain integers: the enums and defaults of
# the friendlier layer above cost as much again as the call.
_events: Final[Callable[[ZSocket, int], int]] = cast(Any, BackendSocket.get)
_recv: Final[Callable[..., Any]] = BackendSocket.recv
_send: Final[Callable[..., object]] = cast(Any, BackendSocket.send)
_EVENTS: Final = int(zmq.EVENTS)
_POLLIN: Final = int(zmq.POLLIN)
_NOBLOCK: Final = int(zmq.NOBLOCK)
_SNDMORE_NOBLOCK: Final = int(zmq.SNDMORE | zmq.NOBLOCK)

_inproc_context: tuple[int, zmq.Context[ZSocket]] | None = None


def _shared_inproc_context() -> zmq.Context[ZSocket]:
    """Inproc peers must share a context; a forked child makes its own."""
    global _inproc_context
    if _inproc_context is None or _inproc_context[0] != os.getpid():
        _inproc_context = os.getpid(), zmq.Context()
    return _inproc_context[1]


class ZeroMQ:
    """The sockets of one node. Closing it closes them all."""

    def __init__(self, config: Config, packet_limit: int) -> None:
        self._config = config
        self._packet_limit = packet_limit
        if config.keep_freed_packets:
            keep_freed_packets()
        self._context: zmq.Context[ZSocket] = zmq.Context(config.io_threads)
        self._context.max_sockets = 65_535

    def listen(self, address: str) -> Listener:
        """Bind to exactly `address`; port `*` or 0 takes a free one.

        Raises:
            UsageError: not a TCP, IPC or inproc address, or it cannot be bound.
        """
        socket = self._socket(zmq.ROUTER, address)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        try:
            socket.bind(re.sub(r"^(tcp://.*):0$", r"\1:*", address))
        except zmq.ZMQError as error:
            socket.close(0)
            raise UsageError(f"cannot listen on {address}: {error}") from None
        bound = socket.getsockopt(zmq.LAST_ENDPOINT)
        assert isinstance(bound, bytes)
        return Listener(socket, bound.rstrip(b"\0").decode())

    def dial(self, address: str) -> Dialer:
        """Connect to `address`, now or whenever somebody listens there.

        Raises:
            UsageError: not an address one can connect to.
        """
        socket = self._socket(zmq.DEALER, address)
        try:
            monitor = socket.get_monitor_socket(_MONITORED)
            socket.connect(address)
        except zmq.ZMQError as error:
            socket.close(0)
            raise UsageError(f"cannot dial {address}: {error}") from None
        return Dialer(socket, monitor, address)

    def _socket(self, kind: int, address: str) -> ZSocket:
        matched = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
        port = matched[2] if matched else None
        if not matched or (port and port != "*" and int(port) > _HIGHEST_PORT):
            raise UsageError(
                f"address {address!r} is not tcp://HOST:PORT, ipc://PATH or inproc://NAME"
            )
        config = self._config
        inproc = address.startswith("inproc://")
        socket = (_shared_inproc_context() if inproc else self._context).socket(kind)
        options = {
            zmq.LINGER: _LINGER_MS,
            zmq.MAXMSGSIZE: self._packet_limit,
            zmq.RCVHWM: config.receive_queue_packets,
            zmq.SNDHWM: 4 * config.window_packets,  # the link's own window is the true bound
            zmq.SNDBUF: config.kernel_buffer,
            zmq.RCVBUF: config.kernel_buffer,
            zmq.RECONNECT_IVL: max(1, int(config.reconnect_interval * 1000)),
            zmq.RECONNECT_IVL_MAX: max(1, int(config.reconnect_interval_max * 1000)),
            zmq.HANDSHAKE_IVL: int(config.handshake_deadline * 1000),
            # TCP repeats into silence ever more rarely, for a quarter of an hour. A connection
            # that is dialled anew finds the network as soon as it works again.
            zmq.TCP_MAXRT: max(1, int(config.peer_timeout * 1000)),
            zmq.CONNECT_TIMEOUT: max(1, int(config.peer_timeout * _CALL_SHARE * 1000)),
            zmq.IPV6: int(address.startswith("tcp://[")),
        }
        for option, value in options.items():
            socket.setsockopt(option, value)
        return socket

    def close(self) -> None:
        """Wait for lingering packets, briefly, and release the I/O threads."""
        self._context.term()


class Listener:
    """A bound ROUTER socket: an endpoint, and the paths of everyone who called it."""

    def __init__(self, socket: ZSocket, address: str) -> None:
        self._socket = socket
        self._known: dict[bytes, Path] = {}
        self.path_filter: Callable[[Path], Path] | None = None
        """Wraps each new path, as in `PathFilter`."""
        self.address = address
        self.descriptor = int(socket.getsockopt(zmq.FD))
        self.monitor_descriptor: int | None = None

    def receive(self, limit: int, *, signalled: bool) -> Iterator[tuple[Path, Buffer]]:
        """Yield waiting packets. A stranger's path object is new each time until `keep`."""
        socket, known = self._socket, self._known
        for _ in range(limit):
            # The signal that woke us says that there is something, nearly always.
            if not signalled and not _events(socket, _EVENTS) & _POLLIN:
                return
            try:
                routing_id = _recv(socket, _NOBLOCK)
            except zmq.Again:
                return
            signalled = False
            frame = _recv(socket, _NOBLOCK, False)
            if frame.more:
                _skip_rest(socket)
                yield known.get(routing_id) or self._stranger(routing_id), b""
                continue
            yield known.get(routing_id) or self._stranger(routing_id), memoryview(frame)

    def _stranger(self, routing_id: bytes) -> Path:
        path = ListenerPath(self, routing_id)
        if self.path_filter is not None:
            path.filtered = self.path_filter(path)
        return path.filtered

    def connectivity(self) -> Iterator[tuple[Path, bool]]:
        """A listener learns of a cut only when it next sends."""
        return iter(())

    def keep(self, path: ListenerPath) -> None:
        """Give this caller's packets the same path object from now on."""
        self._known[path.routing_id] = path.filtered

    def send(self, path: ListenerPath, packet: Buffer, stable: bool) -> bool:
        """Send to one caller; False where it is gone."""
        socket = self._socket
        try:
            _send(socket, path.routing_id, _SNDMORE_NOBLOCK)
            _send(socket, packet, _NOBLOCK, not stable)
        except zmq.Again:
            return True  # a full queue: to the link it is one more packet lost on the way
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return False
            raise
        return True

    def forget(self, path: ListenerPath) -> None:
        """The path's link has ended."""
        if self._known.get(path.routing_id) is path.filtered:
            del self._known[path.routing_id]

    def close(self) -> None:
        """Stop listening; packets that wait to leave have a moment to do so."""
        self._socket.close()


class ListenerPath:
    """The way back to one caller of a listener."""

    __slots__ = ("endpoint", "filtered", "routing_id")

    def __init__(self, listener: Listener, routing_id: bytes) -> None:
        self.endpoint = listener
        self.routing_id = routing_id
        self.filtered: Path = self  # as `Dialer.filtered`

    @property
    def address(self) -> str:
        """The listener's address and ZeroMQ's name for the connection."""
        return f"{self.endpoint.address}#{self.routing_id.hex()}"

    @property
    def connected(self) -> bool:
        """It called us, so it was; a later cut shows when sending."""
        return True

    def keep(self) -> None:
        """This caller has proven to be a peer."""
        self.endpoint.keep(self)

    def send(self, packet: Buffer, *, stable: bool) -> bool:
        """Send to this caller; False where it is gone."""
        return self.endpoint.send(self, packet, stable)

    def close(self) -> None:
        """Forget the caller."""
        self.endpoint.forget(self)


class Dialer:
    """A connected DEALER socket: an endpoint with exactly one path, which it is itself."""

    def __init__(self, socket: ZSocket, monitor: ZSocket, address: str) -> None:
        self._socket = socket
        self._monitor = monitor
        self.address = address
        self.connected = False
        self.filtered: Path = self
        """What the engine knows this path as, where a filter wraps it."""
        self.descriptor = int(socket.getsockopt(zmq.FD))
        self.monitor_descriptor: int | None = int(monitor.getsockopt(zmq.FD))

    @property
    def endpoint(self) -> Dialer:
        """The endpoint that receives for this path."""
        return self

    def receive(self, limit: int, *, signalled: bool) -> Iterator[tuple[Path, Buffer]]:
        """Yield waiting packets."""
        socket, path = self._socket, self.filtered
        for _ in range(limit):
            if not signalled and not _events(socket, _EVENTS) & _POLLIN:
                return
            try:
                frame = _recv(socket, _NOBLOCK, False)
            except zmq.Again:
                return
            signalled = False
            if frame.more:
                _skip_rest(socket)
                yield path, b""
                continue
            yield path, memoryview(frame)

    def connectivity(self) -> Iterator[tuple[Path, bool]]:
        """Yield True when the connection stands and False when it was cut."""
        while _events(self._monitor, _EVENTS) & _POLLIN:
            # Two frames: event u16 and value u32 in host order, then the address.
            event = int.from_bytes(self._monitor.recv_multipart(zmq.NOBLOCK)[0][:2], sys.byteorder)
            self.connected = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
            yield self.filtered, self.connected

    def keep(self) -> None:
        """A dialled path is known from the start."""

    def send(self, packet: Buffer, *, stable: bool) -> bool:
        """Send; while the connection is being made, ZeroMQ holds the packet."""
        # A full queue is to the link one more packet lost on the way.
        with suppress(zmq.Again):
            _send(self._socket, packet, _NOBLOCK, not stable)
        return True

    def close(self) -> None:
        """Close the connection; packets that wait to leave have a moment to do so."""
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close()


def _skip_rest(socket: ZSocket) -> None:
    """Read away the other parts of a message that no peer of ours would send."""
    while socket.getsockopt(zmq.RCVMORE):
        socket.recv(zmq.NOBLOCK)
